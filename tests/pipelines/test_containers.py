"""What the containers of a local run see, may write and are told: everything that needs no engine to be seen."""

import os
from pathlib import Path
from typing import Any

import pytest

from retain.errors import ConfigError
from retain.resolve.recipe import load
from retain_pipelines import containers, local, pods
from retain_pipelines.compiling import load as load_pipeline
from retain_pipelines.compiling import spec_of
from retain_pipelines.containers import Place


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with runs in it, a home, a model, and a place for published models."""
    for name in ("work/runs", "home", "model", "data"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "data/train.jsonl").write_text("{}\n")
    (tmp_path / "data/train.jsonl").chmod(0o644)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))
    return tmp_path


def recipe_of(machine: Path, **publish: str) -> dict[str, Any]:
    return {
        "model": {"base_model": str(machine / "model")},
        "data": {"datasets": [{"path": f"file://{machine}/data/train.jsonl"}, {"path": "package://retain_pipelines/x"}, {"path": "rows.jsonl"}]},
        "publish": {"store": "", **publish},
    }  # fmt: skip


def test_a_run_writes_to_three_places_and_reads_what_its_recipe_names(machine: Path) -> None:
    found = containers.places(machine / "work/runs", recipe_of(machine, store=str(machine / "store")))
    assert set(found) == {
        Place(machine / "work", False), Place(machine / "work/runs", True), Place(machine / "home", True),
        Place(machine / "store", True), Place(machine / "model", False), Place(machine / "data/train.jsonl", False),
    }  # fmt: skip


def test_a_folder_for_weights_is_one_that_the_steps_write(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_MODELS_URI", str(machine / "weights"))
    assert Place(machine / "weights", True) in containers.places(machine / "work/runs", recipe_of(machine))
    assert containers.environment()["RETAIN_MODELS_URI"] == str(machine / "weights")


def test_a_remote_store_is_no_folder(machine: Path) -> None:
    found = containers.places(machine / "work/runs", recipe_of(machine, store="s3://models/here"))
    assert {place.path for place in found if place.writable} == {machine / "work/runs", machine / "home"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can hand files to another user")
def test_a_root_caller_hands_the_run_and_the_home_to_the_images_user_and_no_other_run(machine: Path) -> None:
    (machine / "work/runs/before").mkdir()
    (machine / "home/kept.lock").write_text("")
    settings = containers.prepared(machine / "work/runs/now", recipe_of(machine))
    assert settings["user"] == "10001:10001"
    owners = {name: (machine / name).stat().st_uid for name in ("work/runs/now/artifacts", "home/kept.lock", "work/runs/before", "model")}  # fmt: skip
    assert owners == {"work/runs/now/artifacts": 10001, "home/kept.lock": 10001, "work/runs/before": 0, "model": 0}


@pytest.mark.skipif(os.getuid() != 0, reason="another caller's own files are always readable to the steps")
def test_what_the_images_user_could_not_read_is_said_before_a_step_starts(machine: Path) -> None:
    (machine / "model").chmod(0o700)
    with pytest.raises(ConfigError, match=r"chmod -R o\+rX .*model"):
        containers.prepared(machine / "work/runs/now", recipe_of(machine))
    os.chown(machine / "model", containers.OWN_ID, containers.OWN_ID)
    assert containers.prepared(machine / "work/runs/now", recipe_of(machine))


def test_the_containers_live_under_the_rules_of_the_cluster(machine: Path) -> None:
    settings = containers.settings([Place(machine / "model", False)], "1000:1000", machine / "work/runs/now")
    assert settings["mounts"] == [{"Type": "bind", "Source": f"{machine}/model", "Target": f"{machine}/model", "ReadOnly": True}]  # fmt: skip
    assert (settings["read_only"], settings["cap_drop"], settings["security_opt"]) == (True, ["ALL"], ["no-new-privileges"])  # fmt: skip
    assert settings["working_dir"] == str(machine / "work")
    assert settings["labels"] == {"retain.run": "now"}


def test_identity_services_and_keys_are_passed_and_paths_of_this_machine_are_not(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ:
        if name.startswith(containers.PASSED) and name != "RETAIN_HOME":
            monkeypatch.delenv(name)
    passed = {"RETAIN_RUN_ID": "now", "AWS_ACCESS_KEY_ID": "key", "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
    for name, value in {**passed, "AWS_CA_BUNDLE": "/etc/x", "RETAIN_TTY": "/dev/pts/1", "PYTHONPATH": "/x"}.items():
        monkeypatch.setenv(name, value)
    assert containers.environment() == {**passed, "RETAIN_HOME": str(machine / "home")}


def test_without_the_images_a_run_is_refused_before_anything_is_made(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retain.errors import EnvironmentFault
    from retain_pipelines import runs

    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(EnvironmentFault, match="no container engine answers"):
        runs.run(load("quickstart"), "quickstart", machine / "runs", resume=False, fresh=False, show=print, in_containers=True)  # fmt: skip
    assert not (machine / "runs").exists()


def test_images_are_named_as_they_are_built_and_a_gguf_base_is_converted_where_torch_is() -> None:
    from retain import images

    spec = spec_of(load_pipeline("finetune-without-forgetting"))

    def image(step: str, recipe: Any) -> str:
        named = local.with_content_images(pods.with_torch_first(spec, recipe))
        return str(named["deploymentSpec"]["executors"][f"exec-{step}"]["container"]["image"])

    quickstart = load("quickstart")
    assert image("gate", quickstart) == images.built("cpu")
    assert image("train", quickstart) == image("resolve", quickstart) == images.built("gpu")
    assert image("resolve", load("quickstart", ["model.base_model=/models/base"])) == images.built("cpu")
