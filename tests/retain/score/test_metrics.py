"""Metrics of an answer against its reference, by hand."""

from typing import Any

import pytest

from retain.score.config import TargetConfig
from retain.score.metrics import macro_f1, scorer

CASES: list[tuple[dict[str, Any], str, str, float]] = [
    ({"metric": "exact_match"}, " Yes\n", "yes", 1.0),
    ({"metric": "exact_match", "ignore_case": False}, "Yes", "yes", 0.0),
    ({"metric": "exact_match"}, "the answer.", "answer", 0.0),
    ({"metric": "exact_match", "ignore_punctuation": True}, "the answer.", "answer", 1.0),
    ({"metric": "f1"}, "a b c", "b c d", 2 / 3),
    ({"metric": "f1"}, "", "", 1.0),
    ({"metric": "rougeL"}, "the cat sat", "the cat sat", 1.0),
    ({"metric": "rouge2"}, "cat the sat", "the cat sat", 0.0),
    ({"metric": "bleu"}, "one two three four five", "one two three four five", 1.0),
    ({"metric": "chrf"}, "same text", "same text", 1.0),
    ({"metric": "numeric_match"}, "so it is $1,234.50 in all", "#### 1234.5", 1.0),
    ({"metric": "numeric_match"}, "no idea", "#### 7", 0.0),
    ({"metric": "label_accuracy"}, "Positive.\nBecause …", "positive", 1.0),
    ({"metric": "json_valid"}, '{"a": 1, "b": 2}', '{"b": 0, "a": 0}', 1.0),
    ({"metric": "json_valid"}, '{"a": 1}', '{"b": 0, "a": 0}', 0.0),
    ({"metric": "json_valid"}, "{", "{}", 0.0),
]


@pytest.mark.parametrize(("settings", "answer", "gold", "value"), CASES)
def test_values(settings: dict[str, Any], answer: str, gold: str, value: float) -> None:
    assert scorer(TargetConfig(**settings))(answer, gold) == pytest.approx(value)


def test_macro_f1_weighs_rare_labels_as_much_as_common_ones() -> None:
    answers, golds = ["a", "a", "a", "a"], ["a", "a", "a", "b"]
    assert macro_f1(answers, golds, TargetConfig()) == pytest.approx((6 / 7 + 0) / 2)
