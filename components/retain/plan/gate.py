"""Plan the gate before a GPU is used: what it will see, what it needs, and a refusal of a policy that cannot conclude."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from retain.errors import PolicyError
from retain.gate.config import POINT, GatePolicy
from retain.gate.looks import boundaries
from retain.gate.rule import POWER_Z
from retain.plan.config import GatePlanConfig
from retain.plan.power import (
    Planned,
    PlannedTarget,
    informative,
    items_for_power,
    judged,
    margin_for_power,
    pass_probability,
    weights_of,
)

UNHARMED = 0.95


@dataclass(frozen=True)
class WayOut:
    """One of the three ways out of a policy that cannot conclude, with the chance of passing it leads to."""

    what: str
    value: str
    power: float


@dataclass(frozen=True)
class GatePlan:
    """What the gate will be able to say. power: chance that an unharmed model passes; drops in points.

    items_needed: per benchmark for fine_power (0: no number of items does). margin_for_unharmed: the macro margin at
    which an unharmed model passes in 95 % (0: none). rows: per benchmark {name, tier, n, flip_rate, detectable_points,
    counts, note}.
    """

    word: Literal["fine", "weak", "refused"]
    power: float
    detectable_points: float
    items_needed: int
    margin_for_unharmed: float
    rows: tuple[Mapping[str, Any], ...]
    ways_out: tuple[WayOut, ...]
    notes: tuple[str, ...]


def plan_gate(
    policy: GatePolicy, benchmarks: Sequence[Planned], target: PlannedTarget | None = None, config: GatePlanConfig | None = None,
) -> GatePlan:  # fmt: skip
    """The plan; refused plans are returned too (check raises), so that a report can show them.

    PolicyError where a benchmark of the policy is not planned, or none is left to decide on.
    """
    config = config or GatePlanConfig()
    _known(policy, benchmarks)
    chosen = judged(benchmarks, policy)
    power = pass_probability(chosen, policy, target, runs=config.runs, seed=config.seed)
    z = boundaries(policy.alpha, policy.looks)[-1]
    weights, share = weights_of(chosen, policy), policy.decision_share
    spread = sum(w**2 * b.flip_rate * b.deff / (b.n * share) for w, b in zip(weights, chosen, strict=True))
    word: Literal["fine", "weak", "refused"] = "fine" if power >= config.fine_power else "weak" if power >= config.least_power else "refused"  # fmt: skip
    hopeless = hopeless_critical(chosen, policy)
    return GatePlan(
        word="refused" if hopeless else word, power=round(power, 3), detectable_points=round(100 * (z + POWER_Z) * float(np.sqrt(spread)), 2),
        items_needed=items_for_power(chosen, policy, config.fine_power, target, runs=config.runs, seed=config.seed),
        margin_for_unharmed=margin_for_power(chosen, policy, UNHARMED, target, runs=config.runs, seed=config.seed),
        rows=tuple(_row(b, policy, z) for b in benchmarks), ways_out=() if word == "fine" else ways_out(chosen, policy, target, config),
        notes=(*hopeless, *_notes(benchmarks, policy)),
    )  # fmt: skip


def check(plan: GatePlan) -> GatePlan:
    """The plan itself; PolicyError (2) with the three ways out where it is refused."""
    if plan.word != "refused":
        return plan
    ways = "; ".join(f"{w.what}: {w.value} (passes in {100 * w.power:.0f} %{'' if w.power > plan.power else ', no help alone'})" for w in plan.ways_out)  # fmt: skip
    raise PolicyError(
        "this gate could not conclude: an unharmed model would pass in too few of its runs", where="gate",
        got=f"{100 * plan.power:.0f} % at the items planned, smallest drop it could see {plan.detectable_points:g} points" + "".join(f"; {n}" for n in plan.notes),
        expected="at least 50 %, better 80 %", fix=ways or "more items for the critical benchmarks, or a wider max_drop for them",
    )  # fmt: skip


def ways_out(benchmarks: Sequence[Planned], policy: GatePolicy, target: PlannedTarget | None, config: GatePlanConfig) -> tuple[WayOut, ...]:  # fmt: skip
    """More items, a wider margin, or without the benchmark that costs most; each with the chance it leads to."""
    more: dict[str, Any] = {"runs": config.runs, "seed": config.seed}
    found = []
    if n := items_for_power(benchmarks, policy, config.fine_power, target, **more):
        most = [replace(b, n=max(n, b.n)) for b in benchmarks]
        found.append(WayOut("more items", f"{n} a benchmark", pass_probability(most, policy, target, **more)))
    if m := margin_for_power(benchmarks, policy, config.fine_power, target, **more):
        wide = policy.model_copy(update={"macro_margin_points": m})
        found.append(WayOut("a wider margin", f"gate.macro_margin_points: {m:g}", pass_probability(benchmarks, wide, target, **more)))  # fmt: skip
    if len(benchmarks) > 1 and not policy.weights:
        without = [(pass_probability([b for b in benchmarks if b is not out], policy, target, **more), out) for out in benchmarks]  # fmt: skip
        best, out = max(without, key=lambda pair: pair[0])
        found.append(WayOut("without one benchmark", f"{out.name}: advisory", best))
    return tuple(found)


def hopeless_critical(benchmarks: Sequence[Planned], policy: GatePolicy) -> list[str]:
    """Critical benchmarks on which even an identical model would fail: n < z²·(1 − m)/m."""
    z, found = boundaries(policy.alpha, policy.looks)[-1], []
    for b in benchmarks:
        chosen = policy.rule_for(b.name)
        least = int(np.ceil(z**2 * (1 - chosen.max_drop * POINT) / (chosen.max_drop * POINT)))
        if chosen.tier == "critical" and b.n * policy.decision_share / b.deff <= least:
            found.append(f"{b.name} is critical with a margin of {chosen.max_drop:g} points: {least + 1} decision items at the least, {round(b.n * policy.decision_share)} planned")  # fmt: skip
    return found


def from_last_run(benchmarks: Sequence[Planned], verdict: Mapping[str, Any]) -> list[Planned]:
    """The benchmarks with flip rate and baseline of the last run's verdict.json, where it has them."""
    seen = {row["name"]: row for row in verdict["benchmarks"]}

    def known(b: Planned) -> Planned:
        row = seen.get(b.name)
        # A run without a single flip still does not mean that none will come: half a flip is the least.
        return replace(b, flip_rate=max(row["flip_rate"], 0.5 / row["n"]), baseline=row["base"], chance=row["chance"]) if row else b  # fmt: skip

    return [known(b) for b in benchmarks]


def from_scores(meta: Mapping[str, Any], flip_rate: float, target: str = "target") -> list[Planned]:
    """The benchmarks of a base's scores.json: their items, baseline and chance."""
    tasks = {name: task for name, task in meta["tasks"].items() if name != target}
    return [Planned(n, t["n"], flip_rate, t["mean"], t["chance"]) for n, t in tasks.items()]


def planned_target(rows: int, config: GatePlanConfig) -> PlannedTarget:
    """What is hoped of ``rows`` target rows."""
    return PlannedTarget(rows, config.target_gain_points, config.target_flip_rate)


def _known(policy: GatePolicy, benchmarks: Sequence[Planned]) -> None:
    names = {b.name for b in benchmarks}
    missing = [name for name in [*policy.benchmarks, *policy.weights] if name not in names]
    if missing:
        raise PolicyError("the policy names a benchmark that will not be scored", where="gate.benchmarks", got=", ".join(missing), expected=", ".join(sorted(names)), fix="add it to score.tasks or take it out of the policy")  # fmt: skip
    empty = [b.name for b in benchmarks if b.n < 1]
    if empty:
        raise PolicyError("a benchmark has no items", where="score.tasks", got=", ".join(empty), fix="raise its limit")


def _row(b: Planned, policy: GatePolicy, z: float) -> Mapping[str, Any]:
    n = b.n * policy.decision_share / b.deff
    chosen = policy.rule_for(b.name)
    counts = chosen.tier != "advisory" and informative(b, policy)
    return {
        "name": b.name, "tier": chosen.tier, "n": b.n, "flip_rate": b.flip_rate, "counts": counts,
        "detectable_points": round(100 * (z + POWER_Z) * float(np.sqrt(b.flip_rate / n)), 2),
    }  # fmt: skip


def _notes(benchmarks: Sequence[Planned], policy: GatePolicy) -> list[str]:
    return [
        f"{b.name}: the base is {100 * (b.baseline - b.chance):.1f} points above chance; it tells nothing and is left out"
        for b in benchmarks if not informative(b, policy)
    ]  # fmt: skip
