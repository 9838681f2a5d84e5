"""After a closed gate, whole: repair, scores, second gate; then a registered model, a second closed gate, or no attempt."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_world import build, environment, outcome, retain

from retain import digest
from retain_pipelines.cli import models as verbs
from retain_pipelines.runs import Outcome
from retain_pipelines.summary import summary

pytestmark = pytest.mark.timeout(900)
BRANCH = ["gate", "repair", "score-repaired", "gate-repaired"]


def run(world: Path, *settings: str, verb: str = "run") -> dict[str, Any]:
    changes = [word for setting in settings for word in ("--set", setting)]
    done = retain(world, verb, "hasty.yaml", *changes, "--json")
    return {**outcome(done), "shown": done.stderr, "code": done.returncode}


def told(found: dict[str, Any]) -> str:
    """What a person sees at the end, where no JSON was asked for."""
    fields = {name: value for name, value in found.items() if name not in ("shown", "code")}
    return summary(Outcome(**{**fields, "folder": Path(found["folder"]), "report": Path(found["report"])}))


def artifact(found: dict[str, Any], path: str) -> Path:
    return next(Path(found["folder"]).glob(f"artifacts/*/{path}"))


def steps(found: dict[str, Any]) -> list[str]:
    """The steps of the branch that were begun, in their order."""
    lines = [line.removeprefix("── ") for line in found["shown"].splitlines() if line.startswith("── ")]
    return [line for line in lines if line in (*BRANCH, "publish") or line.startswith("stop")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def hasty(world: Path) -> dict[str, Any]:
    """A recipe whose gate closes at first; it may be repaired."""
    return run(world)


def test_a_closed_gate_is_repaired_and_the_weaker_model_registered(hasty: dict[str, Any]) -> None:
    verdict, chosen = hasty["verdict"], hasty["repair"]["chosen"]
    assert (hasty["code"], verdict["verdict"], verdict["attempt"]) == (0, "pass", 2), hasty["shown"]
    assert chosen["strength"] < 1
    assert steps(hasty) == [*BRANCH, "publish"]
    assert hasty["published"]["digest"] == verdict["candidate_digest"] == hasty["repair"]["model_digest"]
    first = json.loads(artifact(hasty, "gate/verdict/verdict.json").read_text())
    assert (first["verdict"], first["action"]) == ("regressed", "repair")
    assert verdict["macro"]["drop_points"] < 0.5 * first["macro"]["drop_points"]
    assert verdict["target"]["tuned"] > 0.8
    assert verdict["benchmarks"][0]["n"] < 160  # dev items had no part in either verdict
    assert f"repaired    {chosen['method']} at strength {chosen['strength']:g}" in told(hasty)
    assert "of the lost general score came back" in told(hasty)


def test_the_repair_is_in_report_card_and_lineage(hasty: dict[str, Any]) -> None:
    assert "<h2>Repair without training</h2>" in Path(hasty["report"]).read_text(encoding="utf-8")
    strength = f"{hasty['repair']['chosen']['strength']:g}"
    published = Path(hasty["published"]["source"].removeprefix("file://"))
    assert f"- adapter strength: {strength} (reduced, so that less is forgotten)" in (published / "README.md").read_text()  # fmt: skip
    assert json.loads((published / "lineage.json").read_text())["facts"]["strength"] == strength


def test_a_repair_that_does_not_pass_is_blocked_by_the_second_gate(world: Path, hasty: dict[str, Any]) -> None:
    daring = ("repair.strengths=[1.0, 0.8]", "repair.methods=[strength]", "repair.least=0.001", "repair.likely=0.001")
    found = run(world, *daring)
    verdict = found["verdict"]
    assert steps(found) == [*BRANCH, f"stop-{verdict['verdict']}"], found["shown"]
    assert (found["code"], found["exit_code"]) == (verdict["exit_code"], verdict["exit_code"])
    assert (verdict["attempt"], verdict["action"], found["published"]) == (3, "stop", {})  # the pass was the second
    assert verdict["candidate_digest"] == found["repair"]["model_digest"]
    assert "<h2>Repair without training</h2>" in Path(found["report"]).read_text(encoding="utf-8")


def test_where_no_repair_is_likely_a_retraining_ends_blocked_with_the_next_training(world: Path, hasty: dict[str, Any]) -> None:  # fmt: skip
    """The same branch of the other pipeline; nobody is in service, so what was trained above is found again."""
    found = run(world, "repair.strengths=[1.0, 0.99]", "repair.methods=[strength]", verb="retrain")
    assert (found["code"], found["exit_code"], found["verdict"]["action"]) == (3, 3, "repair"), found["shown"]
    assert "train" in found["cached"]
    assert steps(found) == ["gate", "repair", "stop-regressed"]
    assert (found["repair"]["chosen"], found["published"]) == ({}, {})
    assert "--set train.method=lora" in told(found)
    assert "No attempt was spent" in Path(found["report"]).read_text(encoding="utf-8")


def test_the_verb_does_what_the_step_does(
    world: Path, hasty: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RETAIN_HOME", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, environment(world)[name])
    monkeypatch.setenv("RETAIN_RUN_ID", "verb")
    monkeypatch.chdir(world)
    places = {
        "adapter": "train/adapter",
        "model": "merge/model",
        "base_scores": "score/scores",
        "verdict": "gate/verdict",
    }
    folders = {name: artifact(hasty, path) for name, path in places.items()}
    verbs.repair(base="base", **folders, dataset=str(artifact(hasty, "validate/dataset")), out=Path("mended"), json=True)  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert found["next"] == "retry"
    assert found["model_digest"] == hasty["repair"]["model_digest"] == digest.of_model(world / "mended/model")
