"""Whether a served model's gain is still there: simulated rows with known gains."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from retain.digest import of_json
from retain.drift.config import DriftConfig
from retain.drift.work import Gain, at_promotion, compare
from retain.errors import DataRefused, IntegrityError

THEN = Gain(40.0, 35.0, 45.0, 400)


@pytest.fixture
def looked(scores: Callable[..., Any]) -> Callable[..., Any]:
    """looked(gain, rows, base's share, seed) → the look at a model with that true gain (fractions)."""

    def run(gain: float, rows: int = 400, *, base: float = 0.3, seed: int = 0, **settings: Any) -> Any:
        rng = np.random.default_rng(seed)
        u = rng.random(rows)
        before = (u < base).astype(float)
        served = (u < base + gain).astype(float)
        return compare(
            DriftConfig(**settings), THEN, scores({"target": before}), scores({"target": served}, of_json("s"))
        )

    return run


@pytest.mark.parametrize(("gain", "word", "code"), [(0.4, "pass", 0), (0.2, "regressed", 3), (0.5, "pass", 0)])
def test_a_gain_that_stayed_and_one_that_went(looked: Any, gain: float, word: str, code: int) -> None:
    found = looked(gain, 2000, margin_points=8.0)
    assert (found.word, int(found.exit_code)) == (word, code)
    assert found.low < found.loss_points < found.high
    assert found.loss_points == pytest.approx(THEN.points - found.now.points, abs=1e-3)


def test_harder_rows_for_everybody_are_no_drift(looked: Any) -> None:
    assert looked(0.4, 2000, base=0.05, margin_points=8.0).word == "pass"


def test_few_rows_say_so_and_how_many_would_do(looked: Any) -> None:
    found = looked(0.38, 60, margin_points=10.0)
    assert (found.word, int(found.exit_code)) == ("inconclusive", 4)
    assert 60 < found.needed < 5000
    assert looked(0.38, found.needed * 2, margin_points=10.0).word == "pass"
    assert looked(0.38, 60, margin_points=5.5).needed == 0  # the record itself is too coarse for that margin
    with pytest.raises(DataRefused, match="too few fresh rows"):
        looked(0.4, 49)
    assert looked(0.4, 49, min_rows=20)


def test_the_alarm_is_rarely_wrong(looked: Any) -> None:
    """An unchanged quality raises it in at most alpha of the looks (the record's own error included: it is fixed here)."""
    words = [looked(0.4, 300, seed=seed).word for seed in range(200)]
    assert words.count("regressed") <= 14
    strict = [looked(0.4, 300, seed=seed, alpha=0.001).word for seed in range(50)]
    assert strict.count("regressed") == 0


def test_the_record_is_the_verdict_against_the_original_base() -> None:
    row = {"name": "target", "metric": "acc", "n": 300, "drop_points": -40.0, "low": -45.0, "high": -35.0}
    assert at_promotion({"target": row, "cumulative": {}}, "acc") == Gain(40.0, 35.0, 45.0, 300)
    later = {"target": {**row, "drop_points": -1.0}, "cumulative": {"target": row}}
    assert at_promotion(later, "acc").points == 40.0
    for verdict, metric in (({"target": {"name": "target"}}, "acc"), ({"target": row}, "rougeL")):
        with pytest.raises(IntegrityError, match="without this target metric"):
            at_promotion(verdict, metric)
