"""Metrics of an answer against its reference, by hand."""

from typing import Any

import pytest

from retain.score.config import TargetConfig
from retain.score.metrics import macro_f1, macro_f1_items, scorer, values

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
    ({"metric": "rouge1"}, "cat the sat", "the cat sat", 1.0),
    ({"metric": "sql_valid"}, "SELECT name FROM people WHERE age > 3", "", 1.0),
    ({"metric": "sql_valid"}, "```sql\nINSERT INTO t VALUES (1);\n```", "", 1.0),
    ({"metric": "sql_valid"}, "SELECT name FROM WHERE", "", 0.0),
    ({"metric": "sql_valid"}, "the answer is people", "", 0.0),
    ({"metric": "sql_valid"}, "hello world", "", 0.0),
    ({"metric": "sql_valid"}, "SELECT 1; DROP TABLE t", "", 0.0),
    ({"metric": "sql_valid", "sql_dialect": "mysql"}, "SELECT `a b` FROM t", "", 1.0),
    ({"metric": "sql_valid", "sql_dialect": "postgres"}, "SELECT `a b` FROM t", "", 0.0),
]


@pytest.mark.parametrize(("settings", "answer", "gold", "value"), CASES)
def test_values(settings: dict[str, Any], answer: str, gold: str, value: float) -> None:
    assert scorer(TargetConfig(**settings))(answer, gold) == pytest.approx(value)


def test_macro_f1_weighs_rare_labels_as_much_as_common_ones() -> None:
    answers, golds = ["a", "a", "a", "a"], ["a", "a", "a", "b"]
    assert macro_f1(answers, golds, TargetConfig()) == pytest.approx((6 / 7 + 0) / 2)


def test_the_rows_shares_in_the_macro_f1_are_the_jackknifes() -> None:
    """Against the definition: each row left out of the labels, the classes kept."""
    answers, golds = ["a", "b", "b", "c", "a", "d"], ["a", "b", "a", "c", "b", "b"]
    config = TargetConfig(metric="macro_f1")
    names, n = sorted(set(golds)), len(golds)

    def score(said: list[str], meant: list[str]) -> float:
        total = 0.0
        for name in names:
            both = sum(s == m == name for s, m in zip(said, meant, strict=True))
            total += 2 * both / max(said.count(name) + meant.count(name), 1)
        return total / len(names)

    whole = score(answers, golds)
    assert whole == pytest.approx(macro_f1(answers, golds, config))
    expected = [
        n * whole - (n - 1) * score(answers[:i] + answers[i + 1 :], golds[:i] + golds[i + 1 :]) for i in range(n)
    ]
    assert macro_f1_items(answers, golds, config) == values(answers, golds, config) == pytest.approx(expected)


def test_the_shares_of_many_rows_have_the_macro_f1_as_their_mean() -> None:
    golds = ["a", "b", "b", "c"] * 100
    answers = [gold if i % 3 else "a" for i, gold in enumerate(golds)]
    shares = macro_f1_items(answers, golds, TargetConfig())
    assert sum(shares) / 400 == pytest.approx(macro_f1(answers, golds, TargetConfig()), abs=0.005)
