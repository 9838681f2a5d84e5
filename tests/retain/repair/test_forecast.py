"""From dev items to the chance of passing: fits through zero, shrinkage, and that the chances mean what they say."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from retain.gate.config import GatePolicy, TargetRule
from retain.gate.judge import Against, Case, Comparison, comparisons, judge_case
from retain.gate.pairs import Pairs
from retain.gate.statistics import from_counts
from retain.repair.forecast import Forecast, curve, fitted_drops, fitted_gains, forecast

STRENGTHS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)
POLICY = GatePolicy(macro_margin_points=2.0, on_fail="repair")
SIZES = {"one": 500, "two": 500, "three": 500, "four": 500, "target": 300}


class World:
    """Items with a base answer and a threshold at which a tuned model of growing strength loses or wins them.

    An item is lost from strength t on (t ~ 1/√ of a uniform share, so that losses grow with λ²), or won.
    """

    def __init__(self, seed: int, *, lost: float = 0.15, won: float = 0.06, learned: float = 0.5) -> None:
        rng = np.random.default_rng(seed)
        self.base, self.losing, self.winning = {}, {}, {}
        for name, n in SIZES.items():
            right = rng.random(n) < (0.1 if name == "target" else 0.65)
            share = lost if name != "target" else 0.0
            self.base[name] = right.astype(float)
            self.losing[name] = np.sqrt(rng.random(n) / max(share / 0.65, 1e-9))
            self.winning[name] = rng.random(n) / max(learned / 0.9 if name == "target" else won / 0.35, 1e-9)

    def at(self, strength: float) -> list[Pairs]:
        return [self._task(name, strength) for name in sorted(SIZES)]

    def _task(self, name: str, strength: float) -> Pairs:
        base = self.base[name]
        tuned = np.where(base > 0, self.losing[name] > strength, self.winning[name] < strength).astype(float)
        hashes = tuple(f"{name}:{i:05d}" for i in range(len(base)))
        return Pairs(name, base, tuned, hashes, hashes, 0.25 if name != "target" else 0.0, "acc")

    def case(self, strength: float, attempt: int = 1, policy: GatePolicy = POLICY) -> tuple[Case, Comparison]:
        case = Case("tuned", (Against("base", "base", tuple(self.at(strength))),), attempt)
        return case, comparisons(case, policy)[0]

    def forecasts(self, policy: GatePolicy = POLICY, strengths: Sequence[float] = STRENGTHS) -> list[Forecast]:
        swept = [list(self.case(strength, policy=policy)[1].dev) for strength in strengths]
        return forecast(strengths, swept, self.case(1.0, policy=policy)[1], attempt=2, runs=500, seed=0)


def test_the_fit_goes_through_nothing_changed_and_finds_a_quadratic() -> None:
    x = np.array(STRENGTHS)
    assert curve(x, 3 * x + 8 * x**2) == pytest.approx(3 * x + 8 * x**2)
    both = curve(x, np.stack([x, -(x**2)], axis=-1))
    assert both == pytest.approx(np.stack([x, -(x**2)], axis=-1))
    assert curve(np.array([1.0, 0.5]), np.array([1.0, 1.0])) == pytest.approx([1.0, 1.0])


def test_a_benchmark_is_believed_as_far_as_its_items_reach() -> None:
    x, weights = np.array(STRENGTHS), np.full(4, 0.25)
    drops = np.array([0.02, 0.03, 0.04, 0.15])  # one falls much more than the others

    def fitted(n: int) -> np.ndarray:
        b = np.round(n * (0.1 + drops / 2) * x[:, None])
        return fitted_drops(x, from_counts(b, b - np.round(n * drops * x[:, None]), n), weights)

    few, many = fitted(60)[0], fitted(60_000)[0]
    assert many == pytest.approx(drops, abs=0.003)
    assert np.ptp(few) < 0.9 * np.ptp(many)
    assert few @ weights == pytest.approx(drops.mean(), abs=0.02)


def test_weaker_is_likelier_to_pass_until_the_target_is_gone() -> None:
    world = World(1)
    found = world.forecasts()
    chances = [one.probability for one in found]
    assert chances[0] < 0.1
    assert max(chances) > 0.8
    assert found[0].drop == pytest.approx(found[0].drop_seen, abs=4)
    assert found[0].gain > found[-1].gain > 0
    hopeless = World(1, learned=0.0).forecasts()
    assert max(one.probability for one in hopeless) < 0.1


def test_a_gain_that_is_complete_at_every_strength_is_not_fitted_beyond_what_can_be_won() -> None:
    world = World(1, learned=9.0)
    goal = next(task for task in world.case(1.0)[1].dev if task.name == "target")
    room = 100 * (1 - goal.base.mean())
    found = world.forecasts()
    assert [one.gain_seen for one in found] == pytest.approx([room] * len(found))
    assert max(one.gain for one in found) == pytest.approx(room)
    assert max(one.probability for one in found) > 0.8


def test_a_gain_that_goes_in_one_step_is_not_fitted_away() -> None:
    x, won = np.array(STRENGTHS), np.array([54, 54, 54, 54, 54, 54, 0])
    found = fitted_gains(x, from_counts(0, won, 54), 0.0)
    assert found[-1] < 0.1 < 0.9 < found[-2]
    noisy = np.array([0.50, 0.52, 0.38, 0.38, 0.27, 0.27, 0.15])  # within the noise of 54 rows: the curve is believed
    assert fitted_gains(x, from_counts(0, 54 * noisy, 54), 0.0) == pytest.approx(curve(x, noisy))


def test_margin_attempt_and_target_rule_are_those_in_force() -> None:
    world, strengths = World(2), (0.6, 0.5)
    plan, swept = world.case(1.0)[1], [list(world.case(s)[1].dev) for s in strengths]

    def chance(plan: Comparison, attempt: int = 2) -> float:
        return forecast(strengths, swept, plan, attempt=attempt, runs=1000, seed=0)[0].probability

    usual = chance(plan)
    assert chance(replace(plan, policy=POLICY.model_copy(update={"macro_margin_points": 4.0}))) > usual
    assert chance(plan, attempt=4) < usual
    unasked = World(2, learned=0.0)
    strengths = (0.4, 0.3)
    swept = [list(unasked.case(s)[1].dev) for s in strengths]
    assert chance(plan) < 0.1 < chance(replace(plan, target_rule="none"))


def test_a_target_with_other_scores_than_right_or_wrong() -> None:
    world, rng = World(3), np.random.default_rng(0)
    spread = {strength: rng.normal(0, 0.3, 300) for strength in STRENGTHS}

    def with_losses(strength: float, gain: float) -> list[Pairs]:
        tasks = world.at(strength)
        noise = spread[strength]
        return [replace(t, base=np.full(300, -1.5), tuned=-1.5 + gain * strength + noise) if t.name == "target" else t for t in tasks]  # fmt: skip

    def forecasts(gain: float) -> list[Forecast]:
        cases = {s: comparisons(Case("t", (Against("base", "b", tuple(with_losses(s, gain))),)), POLICY)[0] for s in STRENGTHS}  # fmt: skip
        return forecast(STRENGTHS, [list(cases[s].dev) for s in STRENGTHS], cases[1.0], attempt=2, runs=500, seed=0)

    learned, nothing = forecasts(0.5), forecasts(0.0)
    assert learned[0].gain == pytest.approx(50, abs=8)
    assert max(f.probability for f in learned) > 0.8 > 0.3 > max(f.probability for f in nothing)


def test_the_chosen_strength_passes_on_items_it_was_not_chosen_on() -> None:
    """Against the naive rule (the strongest that passes on dev itself), over drawn worlds."""
    ours, naive = [], []
    for seed in range(60):
        world = World(seed)
        likely = [f.strength for f in world.forecasts() if f.probability >= 0.8]
        if likely:
            ours.append(_passes(world, max(likely)))
        on_dev = [s for s in STRENGTHS if _passes_on_dev(world, s)]
        if on_dev:
            naive.append(_passes(world, max(on_dev)))
    assert len(ours) > 40
    assert np.mean(ours) > max(0.65, np.mean(naive))


def _passes(world: World, strength: float) -> bool:
    case, _ = world.case(strength, attempt=2)
    return judge_case(case, POLICY).verdict == "pass"


def _passes_on_dev(world: World, strength: float) -> bool:
    plan = world.case(strength)[1]
    general = np.mean([float((t.base - t.tuned).mean()) for t in plan.dev if t.name != "target"])
    return general < POLICY.macro_margin_points / 100


def test_a_target_rule_of_none_needs_no_target() -> None:
    policy = POLICY.model_copy(update={"target": TargetRule(rule="none")})
    found = World(4).forecasts(policy)
    assert {f.gain for f in found} == {0.0}
    assert max(f.probability for f in found) > 0.8


def test_the_share_of_the_gain_that_is_kept_is_that_of_the_gated_model() -> None:
    world = World(2)
    found = world.forecasts()
    assert found[0].kept == pytest.approx(found[0].gain / found[0].gain_seen)  # λ = 1 is the gated model itself
    assert [one.kept for one in found] == sorted((one.kept for one in found), reverse=True)
    assert found[-1].kept == pytest.approx(found[-1].gain / found[0].gain_seen)
    for rule in ("not_worse", "none"):  # no gain is asked for, so there is none to keep
        unasked = POLICY.model_copy(update={"target": TargetRule(rule=rule)})
        assert {one.kept for one in world.forecasts(unasked)} == {1.0}
