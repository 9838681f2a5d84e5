"""The tests of the gate, on arrays: the last axis is the benchmark (or the cluster), leading axes are runs of a simulation.

Everywhere d = baseline − candidate per item, in [−1, 1] for benchmarks; a positive mean is a loss. Formulas: Tango 1998
(Statistics in Medicine 17, 891–908) for the restricted variance, McNemar 1947 with the exact binomial below 50 flips,
Holm 1979, clustered standard errors after Miller 2024 (arXiv 2411.00640).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
EXACT_BELOW = 50
# Weight of "items of a cluster are copies of each other" in the design effect, counted in clusters that show a flip: 2 holds
# the error rate at every correlation tried, and costs least power where there is none (tests/retain/gate/test_error_rates.py).
PRIOR_CLUSTERS = 2.0
PERMUTATIONS = 20_000


@dataclass(frozen=True)
class Summary:
    """Paired items of benchmarks, each field of shape (..., K).

    drop: mean of d. flips: share of items with d ≠ 0. variance: of the drop, unrestricted. deff: design effect of the
    clusters (1: items are independent). df: degrees of freedom (inf: normal). binary: every d is −1, 0 or 1.
    """

    n: Array
    drop: Array
    flips: Array
    variance: Array
    deff: Array
    df: Array
    binary: NDArray[np.bool_]

    def __getitem__(self, key: Any) -> "Summary":
        return Summary(*(getattr(self, name)[..., key] for name in self.__dataclass_fields__))


def stack(parts: list[Summary]) -> Summary:
    """Summaries of single benchmarks (shape ()) side by side: shape (K,)."""
    return Summary(*(np.stack([getattr(p, name) for p in parts], axis=-1) for name in Summary.__dataclass_fields__))


def from_counts(b: Any, c: Any, n: Any) -> Summary:
    """Independent right-or-wrong items: b baseline right and candidate wrong, c the reverse, n items."""
    b, c, n = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (b, c, n)))
    drop, flips = (b - c) / n, (b + c) / n
    ones = np.ones_like(drop)
    return Summary(n, drop, flips, (flips - drop**2) / n, ones, np.inf * ones, ones.astype(bool))


def from_clusters(sums: Array, moved: Array, squares: Array, sizes: Array, *, binary: bool) -> Summary:
    """Items in clusters: per cluster (last axis) the sum of d, the count of d ≠ 0, the sum of d², and the size.

    The design effect is estimated and shrunk towards full correlation: with few flips it cannot be seen, and a gate that
    then believed in independence would pass on nothing.
    """
    clusters, n = max(2, sums.shape[-1]), sizes.sum()
    drop = sums.sum(-1) / n
    robust = clusters / (clusters - 1) * ((sums - sizes * drop[..., None]) ** 2).sum(-1) / n**2
    independent = (squares.sum(-1) / n - drop**2) / n
    worst = (sizes**2).sum() / n
    seen = (moved > 0).sum(-1)
    estimate = np.divide(robust, independent, out=np.full_like(robust, worst), where=independent > 0)
    deff = np.maximum(1.0, (seen * estimate + PRIOR_CLUSTERS * worst) / (seen + PRIOR_CLUSTERS)) if worst > 1 else 1.0
    ones = np.ones_like(drop)
    return Summary(
        n * ones, drop, moved.sum(-1) / n, robust, deff * ones, (clusters - 1) * ones, np.full(drop.shape, binary)
    )


def restricted_variance(s: Summary, margin: Any) -> Array:
    """Variance of the drop if its true value were ``margin`` (> 0, as a fraction): Tango's for right-or-wrong items.

    For other scores never below the variance of whole-item flips that add up to the margin: without that floor, items
    that all stayed the same would prove anything.
    """
    m = np.asarray(margin, dtype=float)
    b, c = (s.flips + s.drop) * s.n / 2, (s.flips - s.drop) * s.n / 2
    with np.errstate(invalid="ignore"):
        root = 2 * s.n
        linear = -(b + c) + (2 * s.n - (b - c)) * m
        q = (np.sqrt(linear**2 + 4 * root * c * m * (1 - m)) - linear) / (2 * root)
    tango = (2 * np.where(s.binary, q, 0.0) + m * (1 - m)) / s.n * s.deff
    return np.where(s.binary, tango, np.maximum(tango, s.variance))


def null_variance(s: Summary) -> Array:
    """Variance of the drop if its true value were 0."""
    return np.where(s.binary & (s.deff == 1), s.flips / s.n, s.variance)


def quantile(p: Any, df: Any) -> Array:
    """Student's t quantile; the normal one where ``df`` is infinite."""
    df = np.asarray(df, dtype=float)
    normal = np.broadcast_to(special.ndtri(p), df.shape)
    if np.isinf(df).all():
        return normal
    return np.where(np.isfinite(df), special.stdtrit(np.where(np.isfinite(df), np.maximum(df, 1.0), 1.0), p), normal)


def pooled_df(parts: Array, df: Array) -> Array:
    """Welch–Satterthwaite degrees of freedom of a sum of variances ``parts`` (..., K)."""
    share = np.where(np.isfinite(df), parts**2 / np.where(np.isfinite(df), df, 1.0), 0.0).sum(-1)
    total = parts.sum(-1) ** 2
    return np.divide(total, share, out=np.full_like(total, np.inf), where=share > 0)


def mcnemar_p(b: Any, c: Any) -> Array:
    """One-sided p that the candidate is worse: exact below 50 flips, above it normal with continuity correction."""
    b, c = np.asarray(b, dtype=float), np.asarray(c, dtype=float)
    flips = b + c
    exact = np.where(b == 0, 1.0, special.betainc(np.maximum(b, 1), c + 1, 0.5))  # P(Binomial(b + c, ½) ≥ b)
    normal = special.ndtr(-(b - c - 1) / np.sqrt(np.maximum(flips, 1)))
    return np.where(flips < EXACT_BELOW, exact, normal)


def sign_flip_p(sums: Array, *, seed: int = 0, rounds: int = PERMUTATIONS) -> float:
    """One-sided p that the candidate is worse, for clusters: how often random signs of the cluster sums reach their total.

    The same clusters in another order give the same p.
    """
    moved = np.sort(sums[sums != 0])
    if not len(moved):
        return 1.0
    rng, hits, total = np.random.default_rng(seed), 0, moved.sum() - 1e-9
    for start in range(0, rounds, 1000):
        signs = rng.integers(0, 2, size=(min(1000, rounds - start), len(moved)), dtype=np.int8) * 2 - 1
        hits += int((signs @ moved >= total).sum())
    return (1 + hits) / (1 + rounds)


def holm(p: Array) -> Array:
    """Holm's adjusted p over the last axis."""
    order = np.argsort(p, axis=-1, kind="stable")
    steps = np.arange(p.shape[-1], 0, -1)
    raised = np.maximum.accumulate(np.take_along_axis(p, order, -1) * steps, axis=-1)
    out = np.empty_like(raised)
    np.put_along_axis(out, order, np.minimum(raised, 1.0), -1)
    return out
