"""The journal, the nested runs, and a server that is away."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from retain import tracking
from retain.journal import Journal
from retain.sender import PIPELINE


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own with the default sqlite store in it."""
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RETAIN_RUN_ID", "run-1")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def runs(stage: str = "") -> list[Any]:
    client = tracking.client()
    experiment = client.get_experiment_by_name("retain").experiment_id
    found = client.search_runs([experiment], "tags.`retain.run_id` = 'run-1'")
    return [r for r in found if not stage or r.data.tags["retain.stage"] == stage]


def test_stages_are_nested_runs_of_one_parent_with_everything_they_said(store: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("<!doctype html>")
    tracking.parent().params({"train": {"lora": {"r": 16}, "note": "x" * 9000}, "seeds": [1, 2]})
    with tracking.stage("train") as tracked:
        for step in range(1200):
            tracked.journal.add("metrics", values={"train_loss_nats": 2.0 - step / 1000}, step=step, time=step)
        tracked.dataset("mixture", "sha256:" + "ab" * 32, context="training")
        tracked.artifact(report)
        tracked.tags({"verdict": "pass"})
    with tracking.stage("score-base") as tracked:
        tracked.metrics({"base/arc (easy)": 0.5})
    (parent,) = runs(PIPELINE)
    (train,) = runs("train")
    assert parent.data.params["train.lora.r"] == "16"
    assert parent.data.params["seeds"] == "[1, 2]"
    assert len(parent.data.params["train.note"]) == 6000
    assert train.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert train.data.tags["verdict"] == "pass"
    assert train.info.status == "FINISHED"
    assert parent.info.status == "RUNNING"
    client = tracking.client()
    assert len(client.get_metric_history(train.info.run_id, "train_loss_nats")) == 1200
    (data,) = train.inputs.dataset_inputs
    assert data.dataset.digest == ("ab" * 32)[:36]
    assert {t.key: t.value for t in data.tags}["retain.digest"] == "sha256:" + "ab" * 32
    assert [a.path for a in client.list_artifacts(train.info.run_id)] == ["report.html"]
    assert runs("score-base")[0].data.metrics == {"base/arc _easy_": 0.5}


def test_a_retried_stage_is_the_same_run_and_a_changed_param_becomes_a_tag(store: Path) -> None:
    def fail() -> None:
        with tracking.stage("mix") as tracked:
            tracked.params({"share": 0.05})
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail()
    assert runs("mix")[0].info.status == "FAILED"
    with tracking.stage("mix") as tracked:
        tracked.params({"share": 0.1, "seed": 1})
    (again,) = runs("mix")
    assert again.info.status == "FINISHED"
    assert again.data.params == {"share": "0.05", "seed": "1"}
    assert again.data.tags["changed.share"] == "0.1"


def test_a_server_that_is_away_costs_nothing_and_gets_everything_later(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:9")
    with tracking.stage("train") as tracked:
        for step in range(50):
            tracked.metrics({"train_loss_nats": float(step)}, step=step)
    said = capsys.readouterr().err
    assert "sent later" in said
    assert "hunter2" not in said
    assert said.count("tracking:") == 2  # once when it was first away, once at the end; not per step
    assert tracking.send_kept() == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.send_kept() == 0
    (train,) = runs("train")
    assert len(tracking.client().get_metric_history(train.info.run_id, "train_loss_nats")) == 50
    assert train.info.status == "FINISHED"


def test_processes_that_start_at_once_share_one_parent(store: Path) -> None:
    code = "import sys; from retain import tracking\nwith tracking.stage(sys.argv[1]) as t: t.metrics({'rows': 1.0})"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen([sys.executable, "-c", code, name], env=env) for name in ("mix", "template")]
    assert [p.wait(timeout=120) for p in both] == [0, 0]
    assert len(runs(PIPELINE)) == 1
    assert len(runs()) == 3


def test_a_killed_stage_loses_no_line(store: Path) -> None:
    code = """
        import os, signal
        from retain import tracking
        from retain.tracking import home
        t = tracking.Stage("train", "run-1", home() / "runs/run-1/train")
        for step in range(20):
            t.journal.add("metrics", values={"loss": 1.0}, step=step, time=step)
        open(t.journal.path, "a").write('{"what": "metr')
        os.kill(os.getpid(), signal.SIGKILL)
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env).returncode == -9
    with tracking.stage("train") as tracked:
        tracked.metrics({"loss": 0.5}, step=20)
    (train,) = runs("train")
    assert len(tracking.client().get_metric_history(train.info.run_id, "loss")) == 21


def test_the_journal_sends_each_line_once_and_again_only_after_a_failure(tmp_path: Path) -> None:
    journal, got = Journal(tmp_path / "metrics.jsonl"), []

    def refuse(first: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        raise OSError("away")

    journal.add("begin", text="a\u2028b")
    with pytest.raises(OSError):
        journal.send(refuse)
    journal.send(lambda first, lines: got.extend(lines))
    journal.add("metrics", values={"x": float("nan")})
    journal.send(lambda first, lines: got.extend(lines))
    journal.send(lambda first, lines: got.extend(lines))
    assert [line["what"] for line in got] == ["begin", "metrics"]
    assert json.loads(journal.path.read_text().split("\n")[0])["text"] == "a\u2028b"
    assert not journal.waiting()


def test_stages_of_one_process_share_an_identity_even_without_a_pipeline(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RETAIN_RUN_ID")
    assert tracking.run_id() == tracking.run_id()
    assert os.environ["RETAIN_RUN_ID"].startswith("local-")
    assert tracking.flat({"a": {"b": {}}, "c": None}) == {"a.b": "{}", "c": "null"}
