"""From a sweep on dev items to the chance that each strength passes on the decision items: fitted drops, the whole rule."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from retain.gate.config import POINT, GatePolicy
from retain.gate.judge import Comparison
from retain.gate.looks import alpha_at, boundaries
from retain.gate.pairs import Pairs, cluster_sums
from retain.gate.statistics import Array, Summary, from_clusters, from_counts
from retain.plan.power import Planned, PlannedTarget, pass_probability, weights_of

HUNDRED = 100.0


@dataclass(frozen=True)
class Forecast:
    """One strength against one baseline. drop, gain and benchmarks' drops in points: as seen on dev, and as fitted over
    the strengths; kept: share of the gated model's gain on dev that is left of it (1 where no gain is asked);
    probability: of `pass` on the decision items."""

    strength: float
    drop_seen: float
    drop: float
    gain_seen: float
    gain: float
    benchmarks: dict[str, float]
    probability: float
    kept: float = 1.0


@dataclass(frozen=True)
class Seen:
    """Dev items at every strength: summaries of the counted benchmarks, fields of shape (strengths, K), and of the target.

    base, target_base: mean scores of the base, shape (K,) and a number.
    """

    names: tuple[str, ...]
    general: Summary
    target: Summary | None
    base: Array
    target_base: float


def forecast(
    strengths: Sequence[float], swept: Sequence[Sequence[Pairs]], plan: Comparison, *, attempt: int, runs: int, seed: int
) -> list[Forecast]:  # fmt: skip
    """One forecast a strength. ``swept``: the dev items of ``plan`` at each of them."""
    seen, x = _seen(swept, plan), np.asarray(strengths, dtype=float)
    sizes = {task.name: len(task.base) for task in plan.decision}
    weights = weights_of([Planned(name, 1, 1.0) for name in seen.names], plan.policy)
    drops = possible(fitted_drops(x, seen.general, weights), seen.base, seen.general)
    macro = seen.general.drop @ weights
    gains = fitted_gains(x, seen.target, seen.target_base) if seen.target is not None else np.zeros(len(x))
    gated = _gained(plan) if seen.target is not None else 0.0
    found = []
    for i, strength in enumerate(strengths):
        at, goal = _at(seen.general, i), _at(seen.target, i) if seen.target is not None else None
        chance = _chance(seen.names, at, drops[i], goal, gains[i], plan, sizes, attempt=attempt, runs=runs, seed=seed)
        found.append(Forecast(
            strength, HUNDRED * float(macro[i]), HUNDRED * float(drops[i] @ weights), HUNDRED * float(-goal.drop if goal is not None else 0.0),
            HUNDRED * float(gains[i]), dict(zip(seen.names, (HUNDRED * drops[i]).tolist(), strict=True)), chance,
            float(gains[i]) / gated if gated > 0 else 1.0,
        ))  # fmt: skip
    return found


def _gained(plan: Comparison) -> float:
    """Gain of the gated model itself on the dev rows of the target; 0 where the rule asks for none."""
    goals = [task for task in plan.dev if task.name == plan.policy.target.name and plan.target_rule == "improved"]
    return -float(summary(goals[0]).drop) if goals else 0.0


def _seen(swept: Sequence[Sequence[Pairs]], plan: Comparison) -> Seen:
    def counts(task: Pairs) -> bool:
        return task.name in plan.informative and task.name != plan.policy.target.name and plan.policy.rule_for(task.name).tier != "advisory"  # fmt: skip

    names = tuple(task.name for task in swept[0] if counts(task))
    general = [[summary(task) for task in tasks if task.name in names] for tasks in swept]
    goals = [summary(task) for tasks in swept for task in tasks if task.name == plan.policy.target.name and plan.target_rule != "none"]  # fmt: skip
    before = {task.name: float(task.base.mean()) for task in swept[0]}
    base = np.array([before[name] for name in names])
    return Seen(
        names, _stacked(general), _flat(goals) if goals else None, base, before.get(plan.policy.target.name, 0.0)
    )


def summary(task: Pairs) -> Summary:
    """The task's pairs as the gate summarises them, without its p-values."""
    d = task.base - task.tuned
    if task.binary and not task.clustered:
        return from_counts(int((d > 0).sum()), int((d < 0).sum()), len(d))
    return from_clusters(*cluster_sums(d, task.cluster), binary=task.binary)


def _flat(parts: Sequence[Summary]) -> Summary:
    return Summary(*(np.stack([getattr(p, name) for p in parts]) for name in Summary.__dataclass_fields__))


def _at(all_of_them: Summary, i: int) -> Summary:
    return Summary(*(getattr(all_of_them, name)[i] for name in Summary.__dataclass_fields__))


def _stacked(parts: Sequence[Sequence[Summary]]) -> Summary:
    rows = [_flat(row) for row in parts]
    return _flat(rows)


def curve(x: Array, y: Array) -> Array:
    """y fitted by a·x + b·x², which is 0 where nothing was changed; least squares, at x. y: (n,) or (n, K)."""
    columns = np.stack([x, x**2], axis=-1)
    return np.asarray(columns @ np.linalg.lstsq(columns, y, rcond=None)[0])


def possible(drops: Array, base: Array | float, seen: Summary) -> Array:
    """Fitted drops of right-or-wrong items within what a base score leaves to lose or win: a fit to a gain that is
    complete at every strength overshoots it."""
    return np.where(seen.binary, np.clip(drops, np.asarray(base) - 1.0, base), drops)


def fitted_drops(x: Array, seen: Summary, weights: Array) -> Array:
    """Drop of each benchmark at each strength, shape (n, K); their weighted mean is the macro average's own curve.

    Few dev items say little of a single benchmark, so its deviation from the average is shrunk by the share of the
    spread that is more than noise (method of moments; DerSimonian and Laird 1986, Controlled Clinical Trials 7, 177–188).
    """
    own = curve(x, seen.drop)
    macro = own @ weights
    apart, noise = own - macro[:, None], seen.deff * seen.flips / seen.n
    k = seen.drop.shape[-1]
    excess = np.maximum(0.0, (apart**2).sum(-1) / max(k - 1, 1) - noise.mean(-1))[:, None]
    shrunk = apart * np.divide(excess, excess + noise, out=np.zeros_like(apart), where=excess + noise > 0)
    return macro[:, None] + shrunk - (shrunk @ weights)[:, None]


def fitted_gains(x: Array, seen: Summary, base: float) -> Array:
    """Gain of the target at each strength, shape (n,). What was learned often goes within a small step of strength, which
    no quadratic follows: as far as the curve misses what was seen by more than noise, what was seen is believed."""
    own = curve(x, -seen.drop)
    off, noise = -seen.drop - own, np.maximum(seen.variance, 0.5 / seen.n**2)  # of half a flip at least
    excess = max(0.0, float((off**2).sum() / max(len(x) - 2, 1) - noise.mean()))
    return -possible(-(own + off * excess / (excess + noise)), base, seen)


def _chance(
    names: Sequence[str], at: Summary, drops: Array, goal: Summary | None, gain: float, plan: Comparison, sizes: dict[str, int], *,
    attempt: int, runs: int, seed: int,
) -> float:  # fmt: skip
    """Chance of `pass` at these true drops and gain, on the decision items alone."""
    policy = plan.policy.model_copy(update={"on_fail": "stop", "target": plan.policy.target.model_copy(update={"rule": plan.target_rule})})  # fmt: skip
    flips = np.maximum(at.flips, 0.5 / at.n)  # none seen does not mean that none will come
    planned = [Planned(name, sizes[name], min(1.0, float(f)), deff=float(d)) for name, f, d in zip(names, flips, at.deff, strict=True)]  # fmt: skip
    target, other = None, 1.0
    if goal is not None and bool(goal.binary):
        target = PlannedTarget(sizes[policy.target.name], HUNDRED * gain, float(goal.flips))
    elif goal is not None:
        other = _chance_of_scores(goal, gain, policy, sizes[policy.target.name], attempt)
    points = (HUNDRED * drops).tolist()
    return other * pass_probability(planned, policy, target, drops_points=points, attempt=attempt, runs=runs, seed=seed)


def _chance_of_scores(goal: Summary, gain: float, policy: GatePolicy, items: int, attempt: int) -> float:
    """The target's condition where its metric is no right-or-wrong: normal, with the spread seen on dev."""
    z = boundaries(alpha_at(min(attempt, policy.attempts), policy.alpha), policy.looks)[-1]
    error = max(float(np.sqrt(goal.variance * goal.n / items)), 1e-12)
    room = gain - policy.target.min_gain_points * POINT if policy.target.rule == "improved" else policy.target.max_drop * POINT + gain  # fmt: skip
    return float(special.ndtr(room / error - z))
