"""The end of a run: the tracker's parent is closed, the webhook is told, and neither can change the verdict."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retain import tracking
from retain.close import summary, work
from retain.close.known import Known, known
from retain.report.work import RunFolders

from .receiver import Receiver, receiving

VERDICT = {
    "schema": "retain.verdict/1", "verdict": "regressed", "exit_code": 3, "action": "stop", "candidate_digest": "sha256:" + "c" * 64,
    "policy_digest": "sha256:" + "d" * 64, "reasons": [{"code": "benchmark_drop", "benchmark": "colours"}],
    "benchmarks": [{"name": "colours", "base": 0.8, "tuned": 0.5}], "target": {"name": "target", "base": 0.1, "tuned": 0.9},
}  # fmt: skip


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"RETAIN_HOME": str(tmp_path / "home"), "RETAIN_RUN_ID": "run-1", "RETAIN_KFP_UI": "https://kf/pipeline/"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "RETAIN_TRACKING", "RETAIN_WEBHOOK_URL", "RETAIN_MLFLOW_UI"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("retain.close.webhook.LONGEST_WAIT_SECONDS", 0.01)


def told(tmp_path: Path, **changes: Any) -> None:
    """What the gate tells."""
    folder, history, mixture = tmp_path / "verdict", tmp_path / "history", tmp_path / "mixture"
    for place in (folder, mixture):
        place.mkdir(exist_ok=True)
    (folder / "verdict.json").write_text(json.dumps({**VERDICT, **changes}))
    history.write_text(json.dumps({"schema": "retain.history/1", "summary": {"final_loss_nats": 1.23456, "note": "x"}}))
    info = {"schema": "retain.mixture/1", "achieved": {"tokens": 700, "replay": 0.05}}
    (mixture / "info.json").write_text(json.dumps(info))
    report = tmp_path / "report.html"
    report.write_text("<!doctype html>")
    summary.tell(folder, report, RunFolders.of(history=str(history), mixture=str(mixture)))


def parent() -> Any:
    client = tracking.client()
    experiment = client.get_experiment_by_name("retain").experiment_id
    (found,) = client.search_runs([experiment], "tags.`retain.stage` = 'pipeline'")
    return found


def test_the_parent_run_is_closed_with_the_verdict_and_every_stages_numbers(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETAIN_WEBHOOK_URL", receiver.url)
    told(tmp_path)
    ended, sent = work.close("finetune-1", "FAILED", "Task steps failed.")
    assert (sent, ended.exit_code, ended.verdict) == ("sent", 3, "regressed")
    run = parent()
    assert run.info.status == "FAILED"
    assert run.data.tags["retain.webhook"] == "sent"
    assert run.data.tags["retain.candidate_digest"] == VERDICT["candidate_digest"]
    expected = {"base/colours": 0.8, "tuned/colours": 0.5, "delta/target": 0.8, "train/final_loss_nats": 1.2346, "mix/tokens": 700.0}  # fmt: skip
    assert {name: round(run.data.metrics[name], 4) for name in expected} == expected
    assert "train/note" not in run.data.metrics
    (message,) = receiver.messages
    assert message["schema"] == "retain.ended/1"
    assert message["text"] == "finetune-1: regressed (exit 3): benchmark_drop colours"
    assert message["links"]["kfp"] == "https://kf/pipeline/#/runs/details/run-1"
    assert (message["state"], message["reasons"]) == ("FAILED", ["benchmark_drop colours"])


def test_a_published_run_says_its_version(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_WEBHOOK_URL", receiver.url)
    told(tmp_path, verdict="pass", exit_code=0, reasons=[])
    summary.tell_published("support-bot", "7")
    ended, _ = work.close("finetune-1", "SUCCEEDED", "")
    assert (ended.exit_code, parent().info.status) == (0, "FINISHED")
    assert receiver.messages[0]["text"] == "support-bot version 7: pass (exit 0)"


def test_a_webhook_that_fails_changes_nothing_but_is_said(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(tmp_path, verdict="pass", exit_code=0, reasons=[])
    for url, said in ((receiver.url, "got: 500"), ("http://example.com/hook-secret", "cannot be used")):
        monkeypatch.setenv("RETAIN_WEBHOOK_URL", url)
        receiver.answers = [500] * 9
        ended, sent = work.close("p", "SUCCEEDED", "")
        assert ended.exit_code == 0
        assert sent.startswith("failed: ")
        assert said in sent
        assert "hook-secret" not in sent
        assert parent().info.status == "FINISHED"
        assert parent().data.tags["retain.webhook"] == sent


def test_a_run_that_ended_before_the_gate_is_red_without_a_verdict() -> None:
    ended, sent = work.close("p", "FAILED", "Task steps failed.")
    assert (ended.verdict, ended.exit_code, sent) == ("none", 8, "none")
    assert parent().info.status == "FAILED"


@pytest.mark.parametrize(
    ("state", "said", "code", "finished"),
    [
        ("SUCCEEDED", 0, 0, True),
        ("COMPLETE", 0, 0, True),
        ("RUNNING", 0, 0, True),  # a group with conditions whose state KFP never updated
        ("FAILED", 0, 8, False),  # the gate was open, publishing failed
        ("FAILED", 3, 3, False),
        ("SUCCEEDED", 3, 3, True),  # gate.end_run: green
        ("SUCCEEDED", 5, 5, True),
        ("RUNNING", None, 8, False),
    ],
)
def test_state_and_verdict_together_say_how_it_ended(state: str, said: int | None, code: int, finished: bool) -> None:
    tags = {} if said is None else {summary.VERDICT: "pass", summary.EXIT: str(said)}
    ended = work.how("p", state, "", Known(tags))
    assert (ended.exit_code, work._finished(ended)) == (code, finished)


def test_the_verdict_is_found_in_the_tracker_by_another_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    told(tmp_path)
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "other-pod"))
    assert known("run-1").tags[summary.VERDICT] == "regressed"
    assert known("run-2").tags == {}


def test_a_tracker_that_is_away_leaves_what_this_home_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETAIN_TRACKING", "later")
    told(tmp_path)
    monkeypatch.delenv("RETAIN_TRACKING")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = known("run-1")
    assert (found.tags[summary.EXIT], found.url) == ("3", "")
    assert "not reached" in capsys.readouterr().err
