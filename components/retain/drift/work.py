"""Whether the model in service still does on fresh rows what it did when it was promoted.

Harder rows are not a worse model: so the ORIGINAL base answers the fresh rows too, and what is compared is the gain over it,
a mean of paired differences both then (the published verdict) and now. The two gains rest on other rows, so their variances
add up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from retain.artifacts import read_json
from retain.drift.config import DriftConfig
from retain.errors import DataRefused, ExitCode, IntegrityError
from retain.gate.config import POINT
from retain.gate.pairs import Scores, count, join
from retain.gate.rule import POWER_Z
from retain.gate.verdict import EXIT, Word
from retain.score.config import TARGET_TASK

NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Gain:
    """A gain over the original base on ``rows`` rows, with its 95 % interval. Points of the target metric."""

    points: float
    low: float
    high: float
    rows: int

    @property
    def variance(self) -> float:
        """Of the gain as a fraction; never 0, also where every row went the same way."""
        half = (self.high - self.low) / 2 * POINT
        return max((half / NORMAL_95) ** 2, (1 / max(self.rows, 1)) ** 2)


@dataclass(frozen=True)
class Drift:
    """loss_points: how much of the gain is gone, with its 95 % interval. needed: fresh rows that would decide (0: decided)."""

    word: Word
    then: Gain
    now: Gain
    base: float
    served: float
    loss_points: float
    low: float
    high: float
    needed: int

    @property
    def exit_code(self) -> ExitCode:
        """0: as good as it was; 3: train again; 4: too few rows to tell."""
        return EXIT[self.word]


def at_promotion(verdict: Mapping[str, Any], metric: str) -> Gain:
    """What the published verdict says of the target against the original base; IntegrityError where it says nothing."""
    target = (verdict.get("cumulative") or verdict)["target"]
    if "n" not in target or target.get("metric", metric) != metric:
        raise IntegrityError("the served model was published without this target metric", got=target.get("metric", "no target"), expected=metric, fix="measure drift with the recipe it was published with")  # fmt: skip
    return Gain(-target["drop_points"], -target["high"], -target["low"], target["n"])


def published_verdict(model: Path) -> dict[str, Any]:
    """The verdict that lies beside a published model's files."""
    return read_json(model / "verdict.json", schema="retain.verdict/1")


def compare(config: DriftConfig, then: Gain, base: Scores, served: Scores) -> Drift:
    """The gain on the fresh rows of both scorings against the gain ``then``."""
    pairs = next(task for task in join(base, served) if task.name == TARGET_TASK)
    if len(pairs.base) < config.min_rows:
        raise DataRefused("too few fresh rows to say anything", got=f"{len(pairs.base)} rows", expected=f"at least {config.min_rows}", fix="label more rows")  # fmt: skip
    s, margin, z = count(pairs).summary, config.margin_points * POINT, float(-special.ndtri(config.alpha))
    loss = then.points * POINT + float(s.drop)
    mine = _variance(float(s.n), float(s.drop), float(s.flips), float(s.variance))
    error = (mine + then.variance) ** 0.5
    keeps = loss + z * error < margin
    fell = loss - z * error > 0 and loss >= margin / 2
    word: Word = "pass" if keeps else "regressed" if fell else "inconclusive"
    needed = _needed(float(s.n) * mine, margin - max(loss, 0.0), then.variance, z) if word == "inconclusive" else 0
    half, reach, gain = NORMAL_95 * mine**0.5, NORMAL_95 * error, -float(s.drop)
    now = Gain(_points(gain), _points(gain - half), _points(gain + half), len(pairs.base))
    means = [_points(pairs.sign * side.mean()) for side in (pairs.base, pairs.tuned)]
    return Drift(word, then, now, means[0], means[1], _points(loss), _points(loss - reach), _points(loss + reach), needed)  # fmt: skip


def _variance(n: float, drop: float, flips: float, plain: float) -> float:
    """Of a mean of paired differences, with one item more on each side (Agresti and Min 2005): never 0 where all rows agree."""
    mean, moved = drop * n / (n + 2), (flips * n + 1) / (n + 2)
    return max(plain, (moved - mean**2) / (n + 2) if moved <= 1 else plain)


def _needed(spread: float, room: float, before: float, z: float) -> int:
    """Fresh rows at which 80 % of such looks would decide; 0 where no number would (the record itself is too coarse)."""
    left = (max(room, 1e-9) / (z + POWER_Z)) ** 2 - before
    return int(np.ceil(spread / left)) if left > 0 else 0


def _points(value: Any) -> float:
    return round(100 * float(value), 4)
