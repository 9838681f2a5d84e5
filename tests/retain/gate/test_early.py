"""A candidate whose scoring ended early is judged like any other, and never easier."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retain.artifacts import write_scores
from retain.digest import of_json
from retain.errors import IntegrityError
from retain.gate.config import GatePolicy
from retain.gate.early import cut, decider, partial_look
from retain.gate.evidence import judge_evidence
from retain.gate.work import COUNTED, gate

POLICY = GatePolicy.model_validate({"looks": 4, "seed": 3, "macro_margin_points": 3.0, "target": {"rule": "none"}})
NAMES = ("reading", "maths", "facts")
SAME = dict.fromkeys(NAMES, (1600, 0.0, 0.03))
LOST = dict.fromkeys(NAMES, (1600, 0.12, 0.2))
UNSURE = dict.fromkeys(NAMES, (200, 0.02, 0.06))


@pytest.fixture
def stopped(scores: Callable[..., Any], draw: Callable[..., Any]) -> Callable[..., tuple[Any, Any, int]]:
    """stopped(plan, seed) → (baseline, what a scorer that asks after each look leaves, looks done)."""

    def run(plan: Any, seed: int = 0, policy: GatePolicy = POLICY) -> tuple[Any, Any, int]:
        base, tuned = (scores(values, digest) for values, digest in zip(draw(plan, seed), (of_json("b"), of_json("t")), strict=True))  # fmt: skip
        decided = decider(policy, base)
        for look in range(1, 5):
            found = cut(tuned, policy, look)
            if look == 4 or decided(look, found):
                break
        return base, (found[0], {**tuned[1], "rounds": {"of": 4, "done": look, "seed": 3, "items_left": 0}}), look

    return run


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Any]:
    def run(base: Any, tuned: Any, policy: GatePolicy = POLICY, **more: Any) -> Any:
        folders = []
        for name, (table, meta) in (("base", base), ("tuned", tuned)):
            write_scores(tmp_path / name, table.to_pylist(), meta)
            folders.append(tmp_path / name)
        return gate(policy, *folders, tmp_path / "verdict", **more)

    return run


@pytest.mark.parametrize(("plan", "word"), [(SAME, "pass"), (LOST, "regressed")])
def test_a_clear_case_ends_early_and_says_so(stopped: Any, judged: Any, tmp_path: Path, plan: Any, word: str) -> None:
    base, tuned, look = stopped(plan)
    assert look < 4
    verdict = judged(base, tuned)
    assert (verdict.verdict, verdict.look, verdict.items_used_percent) == (word, look, 25.0 * look)
    assert sum(row["n"] for row in verdict.benchmarks) == tuned[0].num_rows
    assert judge_evidence(tmp_path / "verdict" / "evidence.json") == verdict
    assert json.loads((tmp_path / "verdict" / "evidence.json").read_text())["partial"] == look


def test_what_ended_early_holds_at_every_attempt(stopped: Any, judged: Any) -> None:
    for seed in range(6):
        base, tuned, look = stopped(SAME, seed)
        if look < 4:
            words = {judged(base, tuned, attempt=attempt).verdict for attempt in (1, 2, 4)}
            assert words == {"pass"}, seed


def test_an_unclear_case_uses_every_item(stopped: Any, judged: Any) -> None:
    base, tuned, look = stopped(UNSURE)
    assert look == 4
    assert judged(base, tuned).items_used_percent == 100.0


def test_a_boundary_model_does_not_pass_more_often_for_ending_early(stopped: Any, judged: Any) -> None:
    """True drop = margin: at most alpha passes; 40 draws hold 0.05 with room for chance."""
    edge = dict.fromkeys(NAMES, (400, 0.03, 0.08))
    passed = [judged(*stopped(edge, seed)[:2]).verdict == "pass" for seed in range(40)]
    assert sum(passed) <= 6


def test_the_attempt_is_counted_by_all_items_whenever_it_ended(
    stopped: Any, judged: Any, scores: Any, draw: Any, registry_home: Path
) -> None:
    base, tuned, look = stopped(SAME)
    assert look < 4
    assert judged(base, tuned, attempt=COUNTED).attempt == 1
    another = scores(draw(SAME)[1], of_json("another"))
    assert judged(base, another, attempt=COUNTED).attempt == 2


def test_the_looks_must_be_the_policys(stopped: Any, judged: Any) -> None:
    base, tuned, look = stopped(SAME)
    assert partial_look(tuned, POLICY) == look
    for other in ({"looks": 1}, {"seed": 4}):
        with pytest.raises(IntegrityError, match="other looks"):
            judged(base, tuned, POLICY.model_copy(update=other))


def test_the_looks_are_nested_fractions_of_whole_clusters(scores: Callable[..., Any]) -> None:
    both = scores({"one": np.ones(400), "two": np.zeros(100)}, per_cluster=5)
    sizes = [len(cut(both, POLICY, look)[0]) for look in range(1, 5)]
    assert sizes == [125, 250, 375, 500]
