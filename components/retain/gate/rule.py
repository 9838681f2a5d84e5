"""The decision rule on arrays: (a) macro, (b) single benchmarks, critical margins, (c) target. Pure.

The same functions decide a real run (shape (K,)) and 2000 simulated ones (shape (2000, K)).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from retain.gate.statistics import (
    Array,
    Summary,
    holm,
    null_variance,
    pooled_df,
    quantile,
    restricted_variance,
)

Flags = NDArray[np.bool_]
POWER_Z = 0.8416  # 80 % power
SUSPICIOUS = 0.10  # one-sided p of one benchmark, not corrected


@dataclass(frozen=True)
class Macro:
    """The macro average drop, as fractions: ``upper`` is what cannot be excluded, ``lower`` what is surely lost."""

    drop: Array
    upper: Array
    lower: Array
    detectable: Array
    low: Array
    high: Array


def macro(s: Summary, weights: Array, margin: float, z: float, fail_alpha: float) -> Macro:
    """(a): non-inferior where ``upper`` < margin; ``lower`` is the fail side's bound."""
    drop = (weights * s.drop).sum(-1)
    held, null, plain = (weights**2 * v for v in (restricted_variance(s, margin), null_variance(s), s.variance))
    pass_q = quantile(special.ndtr(z), pooled_df(held, s.df))
    fail_q = quantile(1 - fail_alpha / 2, pooled_df(null, s.df))
    error, spread = np.sqrt(held.sum(-1)), quantile(0.975, pooled_df(plain, s.df)) * np.sqrt(plain.sum(-1))
    return Macro(
        drop=drop, upper=drop + pass_q * error, lower=drop - fail_q * np.sqrt(null.sum(-1)),
        detectable=(pass_q + POWER_Z) * error, low=drop - spread, high=drop + spread,
    )  # fmt: skip


def macro_fails(m: Macro, margin: float) -> Flags:
    """Surely a loss, and one that matters."""
    return (m.lower > 0) & (m.drop >= margin / 2)


def drops_fail(s: Summary, p_worse: Array, floors: Array, fail_alpha: float) -> tuple[Flags, Array]:
    """(b): per benchmark, whether it fell significantly by at least its floor; and Holm's adjusted p."""
    adjusted = holm(p_worse)
    return (adjusted <= fail_alpha / 2) & (s.drop >= floors - 1e-12), adjusted


def own_margin(s: Summary, margins: Array, z: float, fail_alpha: float) -> tuple[Flags, Flags]:
    """Critical benchmarks: (non-inferior at the own margin, surely beyond it)."""
    error = np.sqrt(restricted_variance(s, margins))
    passes = s.drop + quantile(special.ndtr(z), s.df) * error < margins
    beyond = s.drop - quantile(1 - fail_alpha / 2, s.df) * error > margins
    return passes, beyond


@dataclass(frozen=True)
class Decision:
    """fell, adjusted, held, beyond: (..., K); passes, regressed: (...), never both true."""

    macro: Macro
    fell: Flags
    adjusted: Array
    held: Flags
    beyond: Flags
    passes: Flags
    regressed: Flags


@dataclass(frozen=True)
class Limits:
    """Margins as fractions: of the macro average, and of each benchmark (K,); free: not lifted by a waiver."""

    margin: float
    own: Array
    weights: Array
    critical: Flags
    free: Flags
    fail_alpha: float


def decide(s: Summary, p_worse: Array, limits: Limits, z: float, *, early: bool = False) -> Decision:
    """(a), (b) and the critical margins together, for the general benchmarks.

    At an ``early`` look (b) fails nobody, but a merely suspicious benchmark holds a pass back until the last look:
    without that, four looks would pass a model that lost 3 points on one of six benchmarks in .20 instead of .11 of runs.
    """
    m = macro(s, limits.weights, limits.margin, z, limits.fail_alpha)
    significant, adjusted = drops_fail(s, p_worse, limits.own, limits.fail_alpha)
    if early:
        significant = (p_worse <= SUSPICIOUS) & (s.drop >= limits.own - 1e-12)
    held, beyond = own_margin(s, limits.own, z, limits.fail_alpha)
    asked = limits.critical & limits.free
    fell, held, beyond = significant & limits.free, held | ~asked, beyond & asked
    passes = (m.upper < limits.margin) & ~fell.any(-1) & held.all(-1)
    regressed = ~passes & (fell.any(-1) | beyond.any(-1) | macro_fails(m, limits.margin))
    return Decision(m, fell, adjusted, held, beyond, passes, regressed)


@dataclass(frozen=True)
class Goal:
    """(c) as fractions. kind: improved (gain above ``gain``), not_worse (drop below ``margin``), none."""

    kind: str
    gain: float
    margin: float


def target(s: Summary, p_better: Array, p_worse: Array, goal: Goal, z: float, fail_alpha: float) -> tuple[Flags, Flags]:
    """(c): (condition met, significantly worse)."""
    if goal.kind == "none":
        return np.ones_like(s.drop, dtype=bool), np.zeros_like(s.drop, dtype=bool)
    worse, q = p_worse <= fail_alpha / 2, quantile(special.ndtr(z), s.df)
    if goal.kind == "not_worse":
        met = s.drop + q * np.sqrt(restricted_variance(s, goal.margin)) < goal.margin
        return met, worse & ~met
    met = (p_better <= special.ndtr(-z)) & (s.drop < 0)
    if goal.gain > 0:
        gained = replace(s, drop=-s.drop)
        met &= -s.drop - q * np.sqrt(restricted_variance(gained, goal.gain)) > goal.gain
    return met, worse


def items_factor(m: Macro, margin: float) -> Array:
    """By how much the items must grow until the macro condition decides, if the true drop is the one seen (80 % power)."""
    towards_pass = margin - np.maximum(m.drop, 0)
    room = np.where(m.drop < margin / 2, towards_pass, np.maximum(m.drop, 1e-9))
    return np.maximum(1.0, (m.detectable / np.maximum(room, 1e-9)) ** 2)
