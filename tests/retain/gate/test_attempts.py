"""Attempts are counted where every run sees them, by what is asked of the same items."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain.artifacts import read_json, write_json
from retain.digest import of_json
from retain.errors import EnvironmentFault, PolicyError
from retain.gate import door
from retain.gate.attempts import Question, decision_items, take
from retain.gate.ci import comment, junit
from retain.gate.config import GatePolicy
from retain.gate.evidence import judge_evidence
from retain.gate.work import COUNTED, gate
from retain.resolve.recipe import load

BENCHES = {"reading": (400, 0.0, 0.04), "maths": (400, 0.0, 0.04)}
POLICY = GatePolicy.model_validate({"macro_margin_points": 8.0, "target": {"rule": "none"}})
ASKED = Question("", "data", "base", "items")


@pytest.fixture(autouse=True)
def home(registry_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    return registry_home


@pytest.fixture
def judged(
    tmp_path: Path, scores_folder: Callable[..., Path], draw: Callable[..., Any]
) -> Callable[..., dict[str, Any]]:
    """judged(name, …) → verdict.json of a candidate of that name through the gate's door."""

    def run(
        name: str, policy: GatePolicy = POLICY, *, data: str = "", plan: Any = BENCHES, recipe: str = ""
    ) -> dict[str, Any]:
        base, tuned = draw(plan)
        left = scores_folder(tmp_path / "base", base)
        right = scores_folder(tmp_path / name, tuned, of_json(name))
        out = tmp_path / f"verdict-{name}"
        door.run(policy.as_parameter(), str(left), str(right), str(out), str(out / "report.html"), data, recipe=recipe)
        return read_json(out / "verdict.json", schema="retain.verdict/1")

    return run


def test_every_new_candidate_spends_less_and_a_cap_ends_it(judged: Callable[..., Any], tmp_path: Path) -> None:
    found = [judged(name) for name in ("one", "two", "three", "four", "five")]
    assert [v["attempt"] for v in found] == [1, 2, 3, 4, 5]
    assert [v["alpha"] for v in found] == [0.05, 0.025, 0.0125, 0.00625, 0.00625]
    assert [v["z"] for v in found[:2]] == [1.644854, 1.959964]
    assert [v["verdict"] for v in found[3:]] == ["pass", "inconclusive"]
    assert [r["code"] for r in found[4]["reasons"]] == ["budget_spent"]
    assert "5 of 4" in (tmp_path / "verdict-five" / "report.html").read_text(encoding="utf-8")


def test_the_same_candidate_again_is_the_same_attempt(judged: Callable[..., Any]) -> None:
    assert [judged(name)["attempt"] for name in ("one", "two", "one", "two", "three")] == [1, 2, 1, 2, 3]


def test_other_data_items_or_a_family_are_counted_apart(judged: Callable[..., Any], tmp_path: Path) -> None:
    more = {**BENCHES, "third": (400, 0.0, 0.04)}
    recipe = tmp_path / "recipe.json"
    sources = [
        {"part": part, "split": "train", "path": part, "digest": f"sha256:{part}"} for part in ("target", "replay")
    ]
    resolved = {"schema": "retain.recipe/1", "digest": "sha256:r", "base": {"uri": "base", "digest": "sha256:b"}, "recipe": load("quickstart").as_parameter()}  # fmt: skip
    write_json(recipe, {**resolved, "sources": sources})
    assert judged("one")["attempt"] == 1
    assert judged("two", data="sha256:other")["attempt"] == 1
    assert judged("three", plan=more)["attempt"] == 1
    assert judged("four", POLICY.model_copy(update={"family": "orders"}))["attempt"] == 1
    assert judged("five", recipe=str(recipe))["attempt"] == 1
    write_json(recipe, {**resolved, "sources": sources[:1]})  # replay rows are not the target's
    assert judged("six", recipe=str(recipe))["attempt"] == 2
    assert judged("seven")["attempt"] == 2


def test_deciding_again_from_evidence_is_no_attempt(judged: Callable[..., Any], tmp_path: Path) -> None:
    judged("one")
    for _ in range(3):
        assert judge_evidence(tmp_path / "verdict-one" / "evidence.json").attempt == 1
    assert judged("two")["attempt"] == 2


def test_a_comparison_with_itself_or_one_that_cannot_be_judged_is_not_counted(
    judged: Callable[..., Any], tmp_path: Path, scores_folder: Callable[..., Path], draw: Callable[..., Any]
) -> None:
    base, _ = draw(BENCHES)
    left = scores_folder(tmp_path / "left", base)
    assert gate(POLICY, left, left, tmp_path / "self", attempt=COUNTED).attempt == 1
    with pytest.raises(PolicyError):
        gate(
            GatePolicy(),
            left,
            scores_folder(tmp_path / "right", base, of_json("x")),
            tmp_path / "none",
            attempt=COUNTED,
        )
    assert judged("one")["attempt"] == 1


def test_only_what_decides_makes_the_question(scores: Callable[..., Any], draw: Callable[..., Any]) -> None:
    base, _ = draw(BENCHES)
    extra, _ = draw({**BENCHES, "extra": (50, 0.0, 0.0)})
    advisory = POLICY.model_validate({**POLICY.as_parameter(), "benchmarks": {"extra": {"tier": "advisory"}}})
    assert decision_items(scores(base), POLICY) == decision_items(scores(extra), advisory)
    repair = POLICY.model_copy(update={"on_fail": "repair"})
    assert decision_items(scores(base), repair) != decision_items(scores(base), POLICY)
    assert decision_items(scores(base), repair) != decision_items(scores(base), repair.model_copy(update={"seed": 1}))
    assert decision_items(scores(base), POLICY) == decision_items(scores(base), POLICY.model_copy(update={"seed": 1}))


def test_two_at_once_never_spend_too_much(home: Path) -> None:
    code = "import sys\nfrom retain.gate.attempts import Question, take\nprint(take(Question('', 'data', 'base', 'items'), sys.argv[1]))"
    asked = [subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True) for name in "ab"]
    numbers = sorted(int(p.communicate(timeout=100)[0]) for p in asked)
    assert numbers == [1, 2]
    assert take(ASKED, "c") == 3


def test_killed_between_its_two_words_an_attempt_is_finished_later(home: Path) -> None:
    from retain.gate import attempts
    from retain.gate.register import Register

    attempts._add(Register(attempts.KIND), ASKED, "killed")
    assert take(ASKED, "other") == 2
    assert take(ASKED, "killed") == 2
    assert take(ASKED, "third") == 3


def test_without_the_register_nothing_is_decided(
    judged: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as left:
        judged("one")
    assert left.value.code == int(EnvironmentFault.exit_code)
    assert not (tmp_path / "verdict-one" / "verdict.json").exists()


def test_three_doors_give_one_verdict_and_count_alike(judged: Callable[..., Any], tmp_path: Path) -> None:
    """The step's door, the command line, and what a CI system is handed; decided again from the evidence, too."""
    assert judged("one")["attempt"] == 1
    told = judged("two")
    ci = ["--junit", str(tmp_path / "junit.xml"), "--comment", str(tmp_path / "comment.md")]
    command = [sys.executable, "-m", "retain_pipelines.cli", "gate", "--base", str(tmp_path / "base"), "--candidate", str(tmp_path / "two"), "--out", str(tmp_path / "cli"), "--set", "macro_margin_points=8", *ci, "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, told["attempt"]) == (0, 2)
    assert json.loads(done.stdout) == told == read_json(tmp_path / "cli" / "verdict.json", schema="retain.verdict/1")
    assert judge_evidence(tmp_path / "cli" / "evidence.json").as_dict() == told
    assert (tmp_path / "junit.xml").read_text() == junit(told)
    assert (tmp_path / "comment.md").read_text() == comment(told)
