"""After a closed gate, whole: repair, scores, second gate; then a registered model, a second closed gate, or no attempt."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
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
    assert f"- adapter strength: {strength} (a part of the change, so that less is forgotten)" in (published / "README.md").read_text()  # fmt: skip
    assert json.loads((published / "lineage.json").read_text())["facts"]["strength"] == strength


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process as one in that world: the verbs are called without a start of Python for each."""
    for name in ("RETAIN_HOME", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, environment(world)[name])
    monkeypatch.setenv("RETAIN_RUN_ID", "verbs")
    monkeypatch.chdir(world)
    return world


def mend(hasty: dict[str, Any], out: Path, *overrides: str) -> None:
    places = {
        "adapter": "train/adapter",
        "model": "merge/model",
        "base_scores": "score/scores",
        "verdict": "gate/verdict",
    }
    folders: dict[str, Any] = {name: artifact(hasty, path) for name, path in places.items()}
    verbs.repair(base="base", **folders, dataset=str(artifact(hasty, "validate/dataset")), overrides=list(overrides), out=out, json=True)  # fmt: skip


def test_a_repair_that_does_not_pass_is_blocked_by_the_second_gate(here: Path, hasty: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    daring = ("repair.strengths=[1.0, 0.8]", "repair.methods=[strength]", "repair.least=0.001", "repair.likely=0.001")
    mend(hasty, here / "daring", *daring)
    told = json.loads(capsys.readouterr().out)
    assert (told["next"], told["attempt"], told["chosen"]["strength"]) == ("retry", 3, 0.8)  # the pass was the second
    dataset, first = str(artifact(hasty, "validate/dataset")), str(artifact(hasty, "gate/verdict"))
    verbs.score(model="daring/model", recipe="hasty.yaml", dataset=dataset, out=here / "daring", json=True)
    with pytest.raises(typer.Exit) as left:
        verbs.gate(
            base=artifact(hasty, "score/scores"), candidate=here / "daring" / "candidate", recipe="hasty.yaml", first=first,
            out=here / "daring" / "verdict", json=True,
        )  # fmt: skip
    verdict = json.loads((here / "daring" / "verdict" / "verdict.json").read_text())
    assert left.value.exit_code == verdict["exit_code"] != 0
    assert (verdict["attempt"], verdict["action"]) == (3, "stop")
    assert verdict["candidate_digest"] == told["model_digest"]


def test_where_no_repair_is_likely_a_retraining_ends_blocked_with_the_next_training(world: Path, hasty: dict[str, Any]) -> None:  # fmt: skip
    """The same branch of the other pipeline; nobody is in service, so what was trained above is found again."""
    found = run(world, "repair.strengths=[1.0, 0.99]", "repair.methods=[strength]", verb="retrain")
    assert (found["code"], found["exit_code"], found["verdict"]["action"]) == (3, 3, "repair"), found["shown"]
    assert "train" in found["cached"]
    assert steps(found) == ["gate", "repair", "stop-regressed"]
    assert (found["repair"]["chosen"], found["published"]) == ({}, {})
    assert "--set train.method=lora" in told(found)
    assert "No attempt was spent" in Path(found["report"]).read_text(encoding="utf-8")


def test_the_verb_does_what_the_step_does(here: Path, hasty: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    mend(hasty, here / "mended")
    found = json.loads(capsys.readouterr().out)
    assert found["next"] == "retry"
    assert found["model_digest"] == hasty["repair"]["model_digest"] == digest.of_model(here / "mended/model")
