"""One candidate against one baseline at one look: conditions, reasons, and the table's rows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retain.errors import IntegrityError, PolicyError
from retain.gate import rule
from retain.gate.config import POINT, GatePolicy
from retain.gate.pairs import FEWEST_CLUSTERS, Counted, Pairs, count
from retain.gate.statistics import Array, quantile, restricted_variance, stack
from retain.gate.verdict import Reason, Row


@dataclass(frozen=True)
class Assessment:
    """What one comparison came to; ``passes`` and ``regressed`` are never both true."""

    passes: bool
    regressed: bool
    reasons: tuple[Reason, ...]
    benchmarks: tuple[Row, ...]
    macro: Row
    target: Row
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Lineup:
    """The tasks by the part they play; counted: critical and supporting benchmarks that tell something."""

    counted: list[Pairs]
    advisory: list[Pairs]
    uninformative: list[Pairs]
    target: Pairs | None
    saturated: frozenset[str]


def lineup(tasks: Sequence[Pairs], policy: GatePolicy, target_rule: str, informative: Collection[str]) -> Lineup:
    """Sort the tasks; PolicyError (2) where the policy names a benchmark or target that was not scored, or none is left."""
    names = {t.name for t in tasks}
    missing = [name for name in [*policy.benchmarks, *policy.weights] if name not in names]
    if missing:
        raise PolicyError("the policy names a benchmark that has no items", where="gate.benchmarks", got=", ".join(missing), expected=", ".join(sorted(names)), fix="add it to score.tasks or take it out of the policy")  # fmt: skip
    found = next((t for t in tasks if t.name == policy.target.name), None)
    if found is None and target_rule != "none":
        raise PolicyError("the target was not scored", where="gate.target", got=f"tasks {', '.join(sorted(names))}", expected=policy.target.name, fix="give target rows to the score step, or set gate.target.rule: none")  # fmt: skip
    general = [t for t in tasks if t.name != policy.target.name]
    judged = [t for t in general if policy.rule_for(t.name).tier != "advisory"]
    for task in judged:
        _check_range(task)
    counted = [t for t in judged if t.name in informative]
    for task in [*counted, *([found] if found is not None and target_rule != "none" else [])]:
        _check_clusters(task)
    if not counted:
        raise PolicyError(
            "no general benchmark tells anything: nothing can be decided", where="gate", got=f"{len(judged)} benchmarks, all of them near chance or advisory",
            expected="at least one whose baseline is above chance", fix="score an easier benchmark, or one with more choices",
        )  # fmt: skip
    return Lineup(
        counted, [t for t in general if t not in judged], [t for t in judged if t.name not in informative], found,
        frozenset(t.name for t in general if 100 * t.base.mean() > policy.saturated_percent),
    )  # fmt: skip


def _check_clusters(task: Pairs) -> None:
    if task.too_few:
        raise PolicyError(
            "too few clusters to tell anything", where=f"task {task.name}", got=f"{task.clusters} clusters in {len(task.base)} items",
            expected=f"at least {FEWEST_CLUSTERS}", fix=f"score more items, or set gate.benchmarks.{task.name}.tier: advisory",
        )  # fmt: skip


def _check_range(task: Pairs) -> None:
    if not len(task.base):
        raise PolicyError("a benchmark has no items left to decide on", where=f"task {task.name}", got="all of them are dev items", fix="score more items")  # fmt: skip
    lowest, highest = min(task.base.min(), task.tuned.min()), max(task.base.max(), task.tuned.max())
    if lowest < 0 or highest > 1:
        raise IntegrityError("a benchmark's score is out of range", where=f"task {task.name}", got=f"{lowest:g} to {highest:g}", expected="0 to 1, higher is better", fix="gate on another metric of the task, or use it as the target")  # fmt: skip


def tells_something(task: Pairs, policy: GatePolicy) -> bool:
    """Whether the baseline is far enough above chance to lose anything; looked at before deciding."""
    return 100 * (float(task.base.mean()) - task.chance) >= policy.chance_margin_points


def assess(line: Lineup, policy: GatePolicy, *, target_rule: str, z: float, waived: Collection[str], role: str, early: bool = False) -> Assessment:  # fmt: skip
    """The whole rule: (a) macro, (b) single benchmarks, critical margins, (c) target; ``early``: not the last look."""
    counts = [count(t) for t in line.counted]
    s, limits = stack([c.summary for c in counts]), _limits(line.counted, policy, waived)
    found = rule.decide(s, np.array([c.p_worse for c in counts]), limits, z, early=early)
    goal = _target(line.target, policy, target_rule, z)
    reasons = _general_reasons(line, counts, found, limits, z, role)
    for task in line.uninformative:
        if policy.rule_for(task.name).tier == "critical":
            reasons.append(_reason("uninformative", task.name, task.base.mean() - task.chance, policy.chance_margin_points * POINT, 0, role))  # fmt: skip
    if not goal["passes"]:
        code = "target_worse" if goal["worse"] else "target_not_improved"
        reasons.append(Reason(code, policy.target.name, goal["drop_points"], goal["limit_points"], 0, role))
    regressed = bool(found.regressed) or goal["worse"]
    if reasons and not regressed and (short := max(r.items_needed for r in reasons)):
        reasons.append(Reason("too_few_items", "", float(s.n.min()), float(short), short, role))
    rows = _rows(line, counts, found.adjusted, policy)
    return Assessment(not reasons, regressed, tuple(reasons), rows, _macro_row(found.macro, limits.margin, len(counts)), goal, _warnings(rows, policy))  # fmt: skip


def _limits(tasks: Sequence[Pairs], policy: GatePolicy, waived: Collection[str]) -> rule.Limits:
    rules = [policy.rule_for(t.name) for t in tasks]
    return rule.Limits(
        margin=policy.macro_margin_points * POINT, own=np.array([r.max_drop for r in rules]) * POINT, weights=weights_of(tasks, policy),
        critical=np.array([r.tier == "critical" for r in rules]), free=np.array([t.name not in waived for t in tasks]), fail_alpha=policy.fail_alpha,
    )  # fmt: skip


def _general_reasons(
    line: Lineup, counts: Sequence[Counted], found: rule.Decision, limits: rule.Limits, z: float, role: str
) -> list[Reason]:
    reasons: list[Reason] = []
    if found.macro.upper >= limits.margin:
        n = np.mean([c.summary.n for c in counts])
        needed = int(np.ceil(float(rule.items_factor(found.macro, limits.margin)) * n))
        reasons.append(_reason("macro_margin", "", found.macro.drop, limits.margin, needed, role))
    for k in np.flatnonzero(found.fell).tolist():
        reasons.append(_reason("benchmark_drop", line.counted[k].name, counts[k].summary.drop, limits.own[k], 0, role))
    for k in np.flatnonzero(~found.held).tolist():
        needed = _critical_items(counts[k], limits.own[k], z)
        reasons.append(_reason("critical_margin", line.counted[k].name, counts[k].summary.drop, limits.own[k], needed, role))  # fmt: skip
    return reasons


def equal(found: Assessment, role: str) -> Assessment:
    """The same model on both sides: nothing to decide."""
    return replace(found, passes=True, regressed=False, reasons=(Reason("equal_digests", role=role),))


def weights_of(tasks: Sequence[Pairs], policy: GatePolicy) -> Array:
    """Weights of the macro average over the counted benchmarks, sum 1, shape (K,)."""
    if not policy.weights:
        return np.full(len(tasks), 1 / len(tasks))
    unweighted = [t.name for t in tasks if t.name not in policy.weights]
    if unweighted:
        raise PolicyError("these benchmarks count but have no weight", where="gate.weights", got=", ".join(unweighted), fix="give every counted benchmark a weight, or none")  # fmt: skip
    chosen = np.array([policy.weights[t.name] for t in tasks])
    return np.asarray(chosen / chosen.sum())


def _target(task: Pairs | None, policy: GatePolicy, target_rule: str, z: float) -> Row:
    wish = policy.target
    goal = rule.Goal(target_rule, wish.min_gain_points * POINT, wish.max_drop * POINT)
    limit = wish.max_drop if target_rule == "not_worse" else -wish.min_gain_points
    if task is None:
        return {"name": policy.target.name, "rule": target_rule, "passes": True, "worse": False}
    c = count(task)
    met, worse = rule.target(c.summary, np.array(c.p_better), np.array(c.p_worse), goal, z, policy.fail_alpha)  # fmt: skip
    return {
        **_seen(task, c), "rule": target_rule, "passes": bool(met), "worse": bool(worse), "limit_points": limit,
        "p_better": _tidy(c.p_better), "p_worse": _tidy(c.p_worse),
    }  # fmt: skip


def _seen(task: Pairs, c: Counted) -> Row:
    """Means in the metric's own direction, the drop and its 95 % interval in points."""
    drop, half = float(c.summary.drop), float(quantile(0.975, c.summary.df)) * float(np.sqrt(c.summary.variance))
    return {
        "name": task.name, "metric": task.metric, "n": len(task.base), "clusters": c.clusters, "b": c.b, "c": c.c,
        "base": _tidy(task.sign * task.base.mean()), "tuned": _tidy(task.sign * task.tuned.mean()),
        "drop_points": _tidy(100 * drop), "low": _tidy(100 * (drop - half)), "high": _tidy(100 * (drop + half)),
    }  # fmt: skip


def _critical_items(c: Counted, margin: float, z: float) -> int:
    room = margin - max(float(c.summary.drop), 0.0)
    if room <= 0:
        return 0
    spread = (z + rule.POWER_Z) ** 2 * float(restricted_variance(c.summary, margin)) * float(c.summary.n)
    return int(np.ceil(spread / room**2))


def _rows(line: Lineup, counts: Sequence[Counted], adjusted: Array, policy: GatePolicy) -> tuple[Row, ...]:
    rows = [_row(t, c, policy, line, "judged", float(p)) for t, c, p in zip(line.counted, counts, adjusted, strict=True)]  # fmt: skip
    rows += [_row(t, count(t), policy, line, "advisory", 1.0) for t in line.advisory]
    rows += [_row(t, count(t), policy, line, "uninformative", 1.0) for t in line.uninformative]
    return tuple(rows)


def _row(task: Pairs, c: Counted, policy: GatePolicy, line: Lineup, status: str, p_holm: float) -> Row:
    gold = 100 * (np.mean(task.p_base) - np.mean(task.p_tuned)) if task.p_base else 0.0
    chosen = policy.rule_for(task.name)
    return {
        **_seen(task, c), "tier": chosen.tier, "max_drop": chosen.max_drop, "chance": _tidy(task.chance), "flip_rate": _tidy(c.summary.flips),
        "p_gold_drop_points": _tidy(gold), "saturated": task.name in line.saturated, "status": status, "p_holm": _tidy(p_holm),
    }  # fmt: skip


def _macro_row(m: rule.Macro, margin: float, benchmarks: int) -> Row:
    points: dict[str, Any] = {
        "drop_points": m.drop, "low": m.low, "high": m.high, "upper_points": m.upper, "lower_points": m.lower,
        "detectable_points": m.detectable, "margin_points": margin,
    }  # fmt: skip
    return {"benchmarks": benchmarks, "passes": bool(m.upper < margin), **{k: _tidy(100 * v) for k, v in points.items()}}  # fmt: skip


def _warnings(rows: Sequence[Row], policy: GatePolicy) -> tuple[str, ...]:
    found = []
    for row in rows:
        if 100 * row["flip_rate"] > policy.warn_flips_percent:
            found.append(f"{row['name']}: {100 * row['flip_rate']:.1f} % of the answers changed (limit {policy.warn_flips_percent:g} %)")  # fmt: skip
        if row["p_gold_drop_points"] > policy.warn_p_gold_points:
            found.append(f"{row['name']}: probability of the right choice fell by {row['p_gold_drop_points']:.2f} points (limit {policy.warn_p_gold_points:g})")  # fmt: skip
    return tuple(found)


def _reason(code: str, name: str, got: Any, limit: Any, needed: int, role: str) -> Reason:
    return Reason(code, name, _tidy(100 * got), _tidy(100 * limit), needed, role)


def _tidy(value: Any) -> float:
    return round(float(value), 6)
