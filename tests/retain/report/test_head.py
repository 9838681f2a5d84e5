"""The top: one sentence, its reasons, the power statement, and advice that fits the settings in force."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from retain.gate.config import GatePolicy
from retain.report.advice import advice
from retain.report.head import headline


def verdict(word: str, *codes: str, action: str = "stop", needed: int = 0, on_fail: str = "stop") -> dict[str, Any]:
    reasons = [
        {"code": c, "benchmark": "facts", "got": 3.0, "limit": 1.0, "items_needed": needed, "role": "base"}
        for c in codes
    ]
    return {"verdict": word, "action": action, "reasons": reasons, "policy": {"on_fail": on_fail}}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (verdict("pass", action="publish"), "Passed: this model may be published"),
        (verdict("pass", action="wait"), "Passed, and waits for a person to approve it"),
        (verdict("pass", "equal_digests", action="publish"), "Passed: this model may be published"),
        (verdict("regressed", "benchmark_drop"), "Closed: it lost what the base could do"),
        (verdict("regressed", "target_worse"), "Closed: it got worse at its own task"),
        (verdict("regressed", "target_worse", "macro_margin"), "Closed: it lost what the base could do"),
        (verdict("inconclusive", "macro_margin", "too_few_items"), "Closed: the items do not suffice to say that nothing was lost"),
        (verdict("inconclusive", "target_not_improved"), "Closed: it did not surely learn its task"),
        (verdict("inconclusive", "budget_spent"), "Closed: these items have given all the verdicts they may"),
        (verdict("integrity", "integrity"), "Closed: the two scorings cannot be compared"),
    ],
)  # fmt: skip
def test_the_verdict_in_one_sentence(given: dict[str, Any], said: str) -> None:
    assert headline(given) == said


def test_an_open_gate_says_why_and_gives_no_advice(decided: Callable[..., Any]) -> None:
    page = decided().page()
    assert '<div class="banner good"><h1 class="good">Passed: this model may be published</h1>' in page
    assert "a loss of 2 points or more is excluded" in page
    assert "The target surely improved: " in page
    assert "What to do next" not in page


def test_a_closed_gate_names_its_reasons_and_what_to_do(whole: Callable[..., Any], harmed: Any) -> None:
    page = whole(harmed).page()
    assert (
        '<div class="banner bad"><h1 class="bad">Closed: it lost what the base could do</h1><div><ul><li>The macro average may'
        in page
    )
    assert "<li>arithmetic fell by " in page
    assert "<h3>What to do next</h3>" in page
    for step in (
        "gate.on_fail=repair",
        "train.learning_rate=5e-05",
        "data.replay.share=0.25",
        "train.num_train_epochs=2",
    ):
        assert f"<code>--set {step}</code>" in page


def test_what_the_gate_could_have_seen_and_the_attempt(decided: Callable[..., Any]) -> None:
    run = decided(attempt=2)
    found = json.loads((run.folder / "verdict" / "verdict.json").read_text(encoding="utf-8"))["macro"][
        "detectable_points"
    ]
    page = run.page()
    assert f"an average drop of {found:.2f} points or more in 4 of 5 such runs" in page
    assert f"<b>{found:.2f}</b>" in page
    assert "<b>2 of 4</b><span>alpha 0.025</span>" in page


def test_a_benchmark_without_a_flip_is_no_proof_of_a_sharp_eye(decided: Callable[..., Any], general: Any) -> None:
    still = replace(general["facts"], items=100, flips=0.0)
    assert "about 4.3 points in a single benchmark" in decided({"still": still}).page()


def test_a_gate_too_coarse_for_its_margin_says_so(decided: Callable[..., Any], general: Any) -> None:
    coarse = "that is coarse"
    assert coarse in decided(general, policy=GatePolicy(macro_margin_points=0.5)).page()
    assert coarse not in decided(general, policy=GatePolicy(macro_margin_points=4.0)).page()


def test_advice_for_a_hasty_full_training() -> None:
    train = {"method": "full", "learning_rate": 5e-4, "num_train_epochs": 5.0}
    steps = advice(verdict("regressed", "macro_margin"), {"train": train, "data": {"replay": {"share": 0.0}}})
    text = " ".join(steps)
    assert "--set train.method=lora" in text
    assert "above 2e-05 full is known to forget): <code>--set train.learning_rate=0.0001</code>" in text
    assert "(0 % of the tokens now): <code>--set data.replay.share=0.05</code>" in text


def test_advice_never_asks_for_what_is_already_so() -> None:
    train = {"method": "lora", "learning_rate": "auto", "num_train_epochs": 1.0}
    text = " ".join(
        advice(verdict("regressed", "benchmark_drop"), {"train": train, "data": {"replay": {"share": 0.25}}})
    )
    assert "train.method" not in text
    assert "replay.share" not in text
    assert "num_train_epochs" not in text


def test_advice_knows_the_method_s_own_rate_and_what_has_a_strength() -> None:
    text = " ".join(advice(verdict("regressed", "macro_margin"), {"train": {"method": "prefix", "learning_rate": 0.0}}))
    assert "--set train.learning_rate=0.0005" in text
    assert "on_fail" not in text


def test_a_repair_is_advised_where_none_was_asked_for() -> None:
    texts = [" ".join(advice(verdict("regressed", "macro_margin", on_fail=word), {})) for word in ("stop", "repair")]
    assert ["--set gate.on_fail=repair" in text for text in texts] == [True, False]


def test_advice_by_reason() -> None:
    assert "12,000 items a benchmark would decide" in " ".join(
        advice(verdict("inconclusive", "macro_margin", needed=12_000), {})
    )
    assert "better target rows" in " ".join(advice(verdict("inconclusive", "target_not_improved"), {}))
    assert "asked too often" in " ".join(advice(verdict("inconclusive", "budget_spent"), {}))
    assert "goes on with a repair" in advice(verdict("regressed", "macro_margin", action="repair"), {})[0]
    assert "approving it publishes" in advice(verdict("pass", action="wait"), {})[0]
    assert advice(verdict("pass", action="publish"), {}) == []


def test_many_warnings_are_folded_and_waivers_are_named(decided: Callable[..., Any], harmed: Any) -> None:
    run = decided(harmed)
    path = run.folder / "verdict" / "verdict.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    assert len(value["warnings"]) > 2
    waiver = {
        "benchmark": "facts",
        "who": "the owner of the list",
        "why": "facts are looked up",
        "until": "2030-01-01",
        "holds": False,
    }
    path.write_text(json.dumps({**value, "waivers": [waiver]}), encoding="utf-8")
    page = run.page()
    assert f"<summary>{len(value['warnings'])} warnings</summary>" in page
    assert "Waiver for facts by the owner of the list until 2030-01-01: facts are looked up. It does not hold" in page
