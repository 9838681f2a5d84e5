"""A training on several nodes: a TrainJob that Kubeflow's models accept, really run by torchrun, followed to its end."""

import json
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.config import parse
from retain.errors import ConfigError, EnvironmentFault
from retain.train import launch, node, trainjob
from retain.train.config import TrainConfig
from retain.train.workspace import Workspace

from .conftest import QUICK, Trained
from .kubernetes_api import served

NODES = {"nodes": 2, "processes": 1, "image": "registry/retain-gpu:1@sha256:0", "runtime": "retain-torch", "namespace": "team"}  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RETAIN_RUN_ID", "run/1")
    monkeypatch.setenv("HOSTNAME", "step")
    monkeypatch.setattr(trainjob, "POLL_SECONDS", 0.2)
    return tmp_path / "home"


def go(api: Any, mixture: Path, model: Path, adapter: Path, **changes: Any) -> tuple[Any, list[int]]:
    steps: list[int] = []
    base = {"uri": str(model), "revision": "", "digest": digest.of_model(model)}
    nodes = parse(trainjob.Nodes, NODES)
    done = trainjob.train(nodes, TrainConfig(**{**QUICK, **changes}), base, mixture, adapter, lambda m, s: steps.append(s), api=api)  # fmt: skip
    return done, steps


def test_two_nodes_train_what_one_pod_trains(trained: Trained, tmp_path: Path, mixture: Path, tiny_llama: Path, place: Path) -> None:  # fmt: skip
    with served(away=2, after=1) as (cluster, api):
        done, steps = go(api, mixture, tiny_llama, tmp_path / "adapter")
    one = trained("one")
    assert done.target_validation_nats == pytest.approx(one.target_validation_nats, abs=2e-5)
    assert (done.steps, done.warnings) == (6, one.warnings)
    assert sorted(set(steps)) == [0, 1, 2, 3, 4, 5, 6]
    card = json.loads((tmp_path / "adapter" / "retain.json").read_text())
    assert card["adapter_digest"] == done.adapter_digest
    made = cluster.posted[0]
    assert made["metadata"]["ownerReferences"][0] == {"apiVersion": "v1", "kind": "Pod", "name": "step", "uid": "1-2-3"}
    assert made["metadata"]["labels"]["retain/run"] == "run-1"
    assert made["spec"]["trainer"]["numNodes"] == 2
    assert cluster.deleted == [made["metadata"]["name"]]
    assert not list((place / "jobs").glob("*/mixture"))


def test_a_node_s_own_error_ends_the_step_with_its_exit_code(tmp_path: Path, mixture: Path, tiny_llama: Path) -> None:
    base = {"uri": str(tiny_llama), "revision": "", "digest": digest.of_model(tiny_llama)}
    work = Workspace(TrainConfig(**{**QUICK, "lora": {"target_modules": ["no_such_layer"]}}), base, mixture)
    assert node.run(work.folder) == 2
    with pytest.raises(ConfigError, match="no_such_layer") as caught:
        work.result(tmp_path / "adapter", "")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "adapter").exists()


def test_a_job_that_dies_without_a_word_shows_the_log_of_its_node(
    tmp_path: Path, mixture: Path, tiny_llama: Path
) -> None:
    with served(silent=True) as (_, api), pytest.raises(EnvironmentFault, match="the disk is on fire"):
        go(api, mixture, tiny_llama, tmp_path / "adapter")


@pytest.mark.parametrize(("status", "error", "words"), [(403, EnvironmentFault, "may not make TrainJobs"), (422, ConfigError, "refused the TrainJob"), (404, EnvironmentFault, "knows no TrainJobs"), (500, EnvironmentFault, "does not answer")])  # fmt: skip
def test_what_the_cluster_refuses_is_said(status: int, error: type[Exception], words: str, tmp_path: Path, mixture: Path, tiny_llama: Path) -> None:  # fmt: skip
    with served(forbid=status) as (_, api), pytest.raises(error, match=words):
        go(api, mixture, tiny_llama, tmp_path / "adapter")


def test_a_job_that_runs_already_is_followed(tmp_path: Path, mixture: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    with served(silent=True) as (cluster, api):
        monkeypatch.setattr(trainjob.Job, "remove", lambda self: None)  # as if killed
        for _ in range(2):
            with pytest.raises(EnvironmentFault, match="without a word"):
                go(api, mixture, tiny_llama, tmp_path / "adapter")
        assert len(cluster.posted) == 1


def test_the_profile_asks_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainjob.asked() is None
    monkeypatch.setenv(trainjob.VARIABLE, json.dumps(NODES))
    found = trainjob.asked()
    assert found is not None
    assert found.nodes == 2
    monkeypatch.setenv(trainjob.VARIABLE, json.dumps({**NODES, "nodes": 1}))
    with pytest.raises(ConfigError, match=r"RETAIN_TRAIN_JOB\.nodes"):
        trainjob.asked()
    with pytest.raises(EnvironmentFault, match="this is none"):
        trainjob.in_cluster()


def test_the_recipe_s_processes_beside_the_profile_s_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"profile says how many(.|\n)*got: 3\n  expected: 1"):
        trainjob.train(parse(trainjob.Nodes, NODES), TrainConfig(processes=3), {}, tmp_path, tmp_path, lambda metrics, step: None)  # fmt: skip


def test_the_step_itself_starts_the_processes_of_one_machine(trained: Trained, tmp_path: Path, mixture: Path, tiny_llama: Path) -> None:  # fmt: skip
    base = {"uri": str(tiny_llama), "revision": "", "digest": digest.of_model(tiny_llama)}
    config, steps = TrainConfig(**QUICK, processes=2), list[int]()
    assert (launch.processes(config), launch.processes(TrainConfig(device="cpu"))) == (2, 1)
    done = launch.train(2, config, base, mixture, tmp_path / "adapter", lambda m, s: steps.append(s))
    assert steps[-1] == 6
    assert done.target_validation_nats == pytest.approx(trained("one").target_validation_nats, abs=2e-5)
    assert (tmp_path / "adapter" / "retain.json").is_file()
