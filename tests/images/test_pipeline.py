"""The main job in the images: every step in its container, beside a real S3 store and our image's own MLflow server."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_world import build, halves

from retain import digest, images

from ..servers import bucket_client, s3_store, until
from .mlflow_container import mlflow_server

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]
STEPS = ["resolve", "validate", "rehearse", "template", "mix", "train", "merge", "score-base", "score-candidate", "judge", "gate", "publish", "close"]  # fmt: skip


@dataclass(frozen=True)
class World:
    """A folder that the containers may read, and how the services are reached."""

    folder: Path
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "retain_pipelines.cli", "run", *arguments, "--runner", "docker", "--json"]

    def variables(self) -> dict[str, str]:
        paths = os.pathsep.join(p for p in sys.path if p)
        own = {
            "RETAIN_HOME": str(self.folder / "home"),
            "PYTHONPATH": paths,
            "OMP_NUM_THREADS": "1",
            "RETAIN_MODELS_URI": "s3://models/between",
        }
        return {**os.environ, **self.environment, **own}

    def run(self, *arguments: str) -> dict[str, Any]:
        """Outcome, exit code and what a person saw of ``retain run … --runner docker``."""
        done = subprocess.run(self.command(*arguments), env=self.variables(), cwd=self.folder, capture_output=True, text=True, check=False)  # fmt: skip
        assert done.stdout.strip(), done.stderr[-4000:]
        return {**json.loads(done.stdout), "code": done.returncode, "shown": done.stderr}


@pytest.fixture(scope="module")
def world(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The small world with its base in the S3 store; rows and tasks are files that are mounted."""
    folder = build(tmp_path_factory.mktemp("world"))
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    with s3_store(tmp_path_factory.mktemp("weed")) as s3:
        for file in (folder / "base").iterdir():
            bucket_client(s3).upload_file(str(file), "models", f"base/{file.name}")
        with mlflow_server(engine, images.built("cpu"), s3) as address:
            yield World(folder, {**s3, "MLFLOW_TRACKING_URI": address})


SETTINGS = ["--set", "model.base_model=s3://models/base", "--set", "publish.store=s3://models/published"]


@pytest.fixture(scope="module")
def careful(world: World) -> dict[str, Any]:
    return world.run("careful.yaml", *SETTINGS)


def test_the_whole_pipeline_passes_in_containers(careful: dict[str, Any]) -> None:
    assert (careful["code"], careful["verdict"].get("verdict")) == (0, "pass"), careful["message"] + careful["shown"][-4000:]  # fmt: skip
    assert [title for title in STEPS if f"── {title}\n" in careful["shown"]] == STEPS
    assert "Traceback" not in careful["shown"]
    log = (Path(careful["folder"]) / "run.log").read_text()
    assert f"Found image '{images.built('cpu')}'" in log
    assert f"Found image '{images.built('gpu')}'" in log


def test_weights_went_through_the_store_and_not_through_the_artifacts(careful: dict[str, Any]) -> None:
    folder = Path(careful["folder"])
    assert all(path.is_symlink() for path in folder.glob("artifacts/**/*.safetensors"))
    cards = [json.loads(path.read_text()) for path in folder.glob("artifacts/**/weights.json")]
    assert len(cards) == 2, "the adapter and the merged model"
    assert all(card["uri"].startswith("s3://models/between/") for card in cards)


def test_what_was_gated_lies_in_the_store_and_in_the_registry(careful: dict[str, Any], world: World) -> None:
    from mlflow.tracking import MlflowClient

    wanted = careful["verdict"]["candidate_digest"]
    version = MlflowClient(world.environment["MLFLOW_TRACKING_URI"]).get_model_version_by_alias("small-world-careful", "candidate")  # fmt: skip
    assert version.source == f"s3://models/published/{wanted.removeprefix('sha256:')}"
    place = world.folder / "back"
    place.mkdir()
    prefix = version.source.removeprefix("s3://models/")
    listing = bucket_client(world.environment).list_objects_v2(Bucket="models", Prefix=prefix)["Contents"]
    for entry in listing:
        bucket_client(world.environment).download_file("models", entry["Key"], str(place / Path(entry["Key"]).name))
    assert digest.of_model(place) == wanted


def test_the_server_has_the_run_with_all_its_stages(careful: dict[str, Any], world: World) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(world.environment["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("retain")
    runs = client.search_runs([experiment.experiment_id], f"tags.`retain.run_id` = '{Path(careful['folder']).name}'")
    assert {run.data.tags["retain.stage"] for run in runs} >= {"pipeline", "train", "score-base", "gate", "publish"}
    (parent,) = [run for run in runs if run.data.tags["retain.stage"] == "pipeline"]
    assert parent.data.tags["retain.verdict"] == "pass"
    assert client.list_artifacts(parent.info.run_id), "the report went through the server into the store"


def test_the_steps_were_not_root_and_left_no_container(careful: dict[str, Any], engine: Any) -> None:
    owners = {path.stat().st_uid for path in Path(careful["folder"]).glob("artifacts/*/*/executor_output.json")}
    assert owners == {os.getuid() or 10001}
    assert not engine.containers.list(filters={"label": f"retain.run={Path(careful['folder']).name}"})


def test_a_second_run_keeps_what_did_not_change(careful: dict[str, Any], world: World) -> None:
    again = world.run("careful.yaml", *SETTINGS, "--set", "publish.alias=second")
    assert again["code"] == 0, again["shown"][-4000:]
    assert set(again["cached"]) >= {"validate", "template", "mix", "train", "merge"}


def test_a_closed_gate_is_red_in_containers_too(careful: dict[str, Any], world: World) -> None:
    found = world.run("reckless.yaml", "--set", "model.base_model=s3://models/base")
    assert (found["code"], found["verdict"].get("verdict")) == (3, "regressed"), found["shown"][-4000:]
    assert not found["published"]


def test_a_retraining_in_containers(careful: dict[str, Any], world: World) -> None:
    """Against the model in service: what ``careful`` published."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(world.environment["MLFLOW_TRACKING_URI"])
    version = client.get_model_version_by_alias("small-world-careful", "candidate").version
    client.set_registered_model_alias("small-world-careful", "champion", version)
    found = world.run("careful.yaml", *SETTINGS, "--pipeline", "retrain")
    assert found["code"] in (0, 4), found["message"] + found["shown"][-4000:]
    assert {"base", "champion"} <= {baseline["role"] for baseline in found["verdict"]["baselines"]}
    assert "── renew\n" in found["shown"]


def test_two_domains_in_containers(world: World) -> None:
    halves(world.folder)
    subprocess.run(["chmod", "-R", "a+rX", str(world.folder)], check=True)
    found = world.run("domains.yaml", *SETTINGS, "--pipeline", "domain-adapters")
    assert (found["code"], found["verdict"].get("verdict")) == (0, "pass"), found["message"] + found["shown"][-4000:]
    assert {"divide", "take", "combine"} <= {path.parent.name for path in Path(found["folder"]).glob("artifacts/**/executor_output.json")}  # fmt: skip


def test_a_killed_wrapper_leaves_no_container_and_the_run_goes_on(careful: dict[str, Any], world: World, engine: Any) -> None:  # fmt: skip
    arguments = ["careful.yaml", *SETTINGS, "--set", "train.seed=7"]
    log = world.folder / "killed.log"
    with log.open("w") as stream:
        victim = subprocess.Popen(world.command(*arguments), env=world.variables(), cwd=world.folder, stdout=subprocess.DEVNULL, stderr=stream)  # fmt: skip
        until(lambda: "── train\n" in log.read_text() and engine.containers.list(filters={"label": "retain.run"}), seconds=400)  # fmt: skip
        time.sleep(1)
        victim.send_signal(signal.SIGKILL)
        victim.wait(timeout=30)
    until(lambda: not engine.containers.list(filters={"label": "retain.run"}), seconds=90)
    resumed = world.run(*arguments, "--resume")
    assert resumed["code"] == 0, resumed["shown"][-4000:]
    assert set(resumed["cached"]) >= {"validate", "template", "mix"}


def test_a_setting_that_is_refused_ends_with_its_own_code(world: World) -> None:
    found = world.run("careful.yaml", "--set", "model.base_model=s3://models/nowhere")
    assert found["code"] == 2
    assert "s3://models/nowhere" in found["message"]
