"""The chance that a model passes the whole rule, by simulation of the functions that decide. No model, no GPU: milliseconds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retain.errors import PolicyError
from retain.gate import rule
from retain.gate.config import POINT, GatePolicy
from retain.gate.looks import alpha_at, boundaries
from retain.gate.statistics import Array, Summary, from_counts, mcnemar_p

HUNDRED = 100.0


@dataclass(frozen=True)
class Planned:
    """A benchmark to come. n: items to be scored. flip_rate: share of answers that will change.

    baseline, chance: mean scores of the base and of guessing in [0, 1] (-1: not known). deff: design effect of clusters.
    """

    name: str
    n: int
    flip_rate: float
    baseline: float = -1.0
    chance: float = 0.0
    deff: float = 1.0


@dataclass(frozen=True)
class PlannedTarget:
    """The target rows to come: n rows, the hoped-for gain in points, share of answers that will change."""

    n: int
    gain_points: float
    flip_rate: float


@dataclass(frozen=True)
class Draws:
    """Simulated flips: summary (runs, K), p of a loss (runs, K), and the target's (runs,)."""

    summary: Summary
    p_worse: Array
    goal: tuple[Summary, Array, Array] | None


def judged(benchmarks: Sequence[Planned], policy: GatePolicy) -> list[Planned]:
    """Those that decide: not advisory, and not known to be near chance."""
    found = [b for b in benchmarks if policy.rule_for(b.name).tier != "advisory" and informative(b, policy)]
    if not found:
        raise PolicyError("no benchmark is left to decide on", where="score.tasks", got=", ".join(b.name for b in benchmarks) or "none", fix="add a benchmark whose baseline is above chance")  # fmt: skip
    return found


def informative(benchmark: Planned, policy: GatePolicy) -> bool:
    """False only where the baseline is known and too close to chance."""
    known = benchmark.baseline >= 0
    return not known or HUNDRED * (benchmark.baseline - benchmark.chance) >= policy.chance_margin_points


def pass_probability(
    benchmarks: Sequence[Planned], policy: GatePolicy, target: PlannedTarget | None = None, *,
    drops_points: Sequence[float] = (), attempt: int = 1, runs: int = 2000, seed: int = 0,
) -> float:  # fmt: skip
    """Chance of `pass` by (a), (b), the critical margins and (c), at the items, flip rates, alpha and final z in force.

    drops_points: true drop of each benchmark that decides (empty: an unharmed model). target None: (c) is taken as met.
    """
    drawn = draw(judged(benchmarks, policy), policy, target, drops_points=drops_points, runs=runs, seed=seed)
    return passing(drawn, judged(benchmarks, policy), policy, attempt=attempt)


def draw(
    benchmarks: Sequence[Planned], policy: GatePolicy, target: PlannedTarget | None, *,
    drops_points: Sequence[float] = (), runs: int, seed: int,
) -> Draws:  # fmt: skip
    """Flips of ``runs`` simulated gates, on the decision items."""
    rng = np.random.default_rng(seed)
    drops = np.asarray(drops_points or np.zeros(len(benchmarks)), dtype=float) * POINT
    size = [max(1, round(b.n * policy.decision_share / b.deff)) for b in benchmarks]
    flips = [_flips(rng, n, b.flip_rate, drop, runs) for n, b, drop in zip(size, benchmarks, drops, strict=True)]
    b, c = (np.stack(side, axis=-1) for side in zip(*flips, strict=True))
    goal = None
    if target is not None and policy.target.rule != "none":
        n = max(1, round(target.n * policy.decision_share))
        lost, won = _flips(rng, n, target.flip_rate, -target.gain_points * POINT, runs)
        goal = (from_counts(lost, won, n), mcnemar_p(won, lost), mcnemar_p(lost, won))
    return Draws(from_counts(b, c, np.array(size)), mcnemar_p(b, c), goal)


def _flips(rng: np.random.Generator, n: int, rate: float, drop: float, runs: int) -> tuple[Array, Array]:
    rate = min(1.0, max(rate, abs(drop)))
    x = rng.multinomial(n, [(rate + drop) / 2, (rate - drop) / 2, 1 - rate], size=runs)
    return x[:, 0].astype(float), x[:, 1].astype(float)


def passing(drawn: Draws, benchmarks: Sequence[Planned], policy: GatePolicy, *, attempt: int = 1) -> float:
    """Share of the simulated gates that say `pass` under ``policy``."""
    z = boundaries(alpha_at(min(attempt, policy.attempts), policy.alpha), policy.looks)[-1]
    passes = rule.decide(drawn.summary, drawn.p_worse, _limits(benchmarks, policy), z).passes
    if drawn.goal is not None:
        wish = policy.target
        goal = rule.Goal(wish.rule, wish.min_gain_points * POINT, wish.max_drop * POINT)
        passes = passes & rule.target(*drawn.goal, goal, z, policy.fail_alpha)[0]
    return float(passes.mean())


def _limits(benchmarks: Sequence[Planned], policy: GatePolicy) -> rule.Limits:
    rules = [policy.rule_for(b.name) for b in benchmarks]
    return rule.Limits(
        margin=policy.macro_margin_points * POINT, own=np.array([r.max_drop for r in rules]) * POINT, weights=weights_of(benchmarks, policy),
        critical=np.array([r.tier == "critical" for r in rules]), free=np.ones(len(rules), dtype=bool), fail_alpha=policy.fail_alpha,
    )  # fmt: skip


def weights_of(benchmarks: Sequence[Planned], policy: GatePolicy) -> Array:
    """Weights of the macro average, sum 1, shape (K,)."""
    chosen = np.array([policy.weights.get(b.name, 0.0) if policy.weights else 1.0 for b in benchmarks])
    return np.asarray(chosen / chosen.sum())


def items_for_power(benchmarks: Sequence[Planned], policy: GatePolicy, power: float, target: PlannedTarget | None = None, *, runs: int = 2000, seed: int = 0) -> int:  # fmt: skip
    """Smallest number of items a benchmark (the same for all) that passes an unharmed model with ``power``; 0: above 10^7."""

    def enough(n: int) -> bool:
        same = [Planned(b.name, n, b.flip_rate, b.baseline, b.chance, b.deff) for b in benchmarks]
        return pass_probability(same, policy, target, runs=runs, seed=seed) >= power

    high = 64
    while not enough(high):
        high *= 2
        if high > 10_000_000:
            return 0
    low = high // 2
    while high - low > max(1, high // 200):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def margin_for_power(benchmarks: Sequence[Planned], policy: GatePolicy, power: float, target: PlannedTarget | None = None, *, runs: int = 2000, seed: int = 0) -> float:  # fmt: skip
    """Smallest macro margin in points, to a tenth, that passes an unharmed model with ``power``; 0: none up to 50."""
    chosen = judged(benchmarks, policy)
    drawn = draw(chosen, policy, target, runs=runs, seed=seed)
    low, high = 0, 500
    if passing(drawn, chosen, _wider(policy, high)) < power:
        return 0.0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passing(drawn, chosen, _wider(policy, middle)) >= power else (middle, high)
    return high / 10


def _wider(policy: GatePolicy, tenths: int) -> GatePolicy:
    return policy.model_copy(update={"macro_margin_points": tenths / 10})
