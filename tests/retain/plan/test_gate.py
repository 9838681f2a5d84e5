import pytest

from retain.config import parse
from retain.errors import PolicyError
from retain.gate.config import GatePolicy
from retain.plan.config import GatePlanConfig
from retain.plan.gate import check, from_last_run, from_scores, plan_gate, planned_target
from retain.plan.power import Planned, PlannedTarget, items_for_power, margin_for_power, pass_probability


def policy(**changes):
    return parse(GatePolicy, changes)


def six(n=1500, f=0.10, **more):
    return [Planned(f"bench{i}", n, f, **more) for i in range(6)]


def test_what_the_rule_achieves():
    """Six benchmarks of 1500 items, flip rate .10: the figures of the design."""
    unharmed = pass_probability(six(), policy())
    all_one, all_two = (pass_probability(six(), policy(), drops_points=[d] * 6) for d in (1, 2))
    one_three, one_five = (pass_probability(six(), policy(), drops_points=[d, 0, 0, 0, 0, 0]) for d in (3, 5))
    assert unharmed >= 0.85
    assert all_one <= 0.06
    assert all_two == 0
    assert one_three <= 0.12
    assert one_five <= 0.01


@pytest.mark.parametrize(("f", "needed"), [(0.05, 714), (0.10, 1428), (0.20, 2855)])
def test_items_needed_agree_with_the_formula(f, needed):
    """8.56·f/(K·M²) for 90 % of the macro condition alone; (b) costs a little more."""
    wide = policy(defaults={"max_drop": 20})
    assert items_for_power(six(f=f), wide, 0.9) == pytest.approx(needed, rel=0.06)
    assert items_for_power(six(f=f), policy(), 0.9) >= 0.95 * needed


def test_a_fine_a_weak_and_a_refused_plan():
    words = [plan_gate(policy(), six(n)).word for n in (1500, 800, 150)]
    assert words == ["fine", "weak", "refused"]
    assert check(plan_gate(policy(), six())).word == "fine"


def test_a_refusal_names_three_ways_out_that_work():
    plan = plan_gate(policy(), six(150))
    assert [w.what for w in plan.ways_out] == ["more items", "a wider margin", "without one benchmark"]
    assert all(w.power >= 0.75 for w in plan.ways_out[:2])
    with pytest.raises(PolicyError, match=r"(?s)more items.*macro_margin_points.*advisory") as caught:
        check(plan)
    assert caught.value.exit_code == 2
    assert ("no help alone" in str(caught.value)) == (plan.ways_out[2].power <= plan.power)
    margin = margin_for_power(six(150), policy(), 0.8)
    assert plan_gate(policy(macro_margin_points=margin), six(150)).word in {"fine", "weak"}
    assert plan_gate(policy(), six(plan.items_needed)).power >= 0.78


def test_the_benchmark_that_costs_most_is_the_one_to_leave_out():
    plan = plan_gate(policy(), [*six(1500)[:3], Planned("tiny", 40, 0.3)])
    assert plan.word != "fine"
    assert next(w.value for w in plan.ways_out if w.what.startswith("without")) == "tiny: advisory"


def test_the_margin_at_which_an_unharmed_model_passes():
    plan = plan_gate(policy(), six(300))
    at, below = (pass_probability(six(300), policy(macro_margin_points=plan.margin_for_unharmed + d)) for d in (0, -0.4))  # fmt: skip
    assert at >= 0.94 > below


def test_a_critical_benchmark_with_too_few_items_is_refused():
    strict = policy(benchmarks={"bench0": {"tier": "critical", "max_drop": 1}})
    plan = plan_gate(strict, six(250, f=0.001))
    assert plan.word == "refused"
    assert "269 decision items" in plan.notes[0]


def test_every_part_of_the_policy_moves_the_power():
    start = pass_probability(six(1000), policy())
    assert pass_probability(six(1000), policy(on_fail="repair")) < start
    assert pass_probability(six(1000), policy(looks=4)) < start
    assert pass_probability(six(1000), policy(alpha=0.01)) < start
    assert pass_probability(six(1000), policy(), attempt=2) < start
    assert pass_probability(six(1000, deff=2.0), policy()) < start
    assert pass_probability(six(1000), policy(benchmarks={"bench0": {"tier": "critical", "max_drop": 2}})) < start
    assert pass_probability(six(1000), policy(), PlannedTarget(200, 3, 0.3)) < start
    assert pass_probability(six(1000), policy(target={"rule": "none"}), PlannedTarget(200, 3, 0.3)) == start
    assert pass_probability(six(1000), policy(weights={**{f"bench{i}": 0.1 for i in range(5)}, "bench5": 0.5})) < start


def test_a_benchmark_at_chance_is_left_out_and_named():
    plan = plan_gate(policy(), [*six(), Planned("mmlu", 1500, 0.1, baseline=0.27, chance=0.25)])
    assert [r["counts"] for r in plan.rows] == [True] * 6 + [False]
    assert "mmlu" in plan.notes[0]
    with pytest.raises(PolicyError, match="no benchmark is left"):
        plan_gate(policy(), [Planned("mmlu", 1500, 0.1, baseline=0.27, chance=0.25)])


def test_the_last_run_replaces_the_prior():
    verdict = {"benchmarks": [{"name": "bench0", "flip_rate": 0.04, "n": 1000, "base": 0.6, "chance": 0.25}]}
    first, second = from_last_run(six()[:2], verdict)
    assert (first.flip_rate, first.baseline, second.flip_rate) == (0.04, 0.6, 0.10)
    config = GatePlanConfig()
    assert (config.flip_rate("lora"), config.flip_rate("full")) == (0.071, 0.276)  # pipelines/EVIDENCE.md, "Flip rates"
    meta = {"tasks": {"piqa": {"n": 300, "mean": 0.66, "chance": 0.5}, "target": {"n": 200, "mean": 0.1, "chance": 0.0}}}  # fmt: skip
    assert from_scores(meta, 0.08) == [Planned("piqa", 300, 0.08, 0.66, 0.5)]


def test_what_is_not_planned_or_empty_is_refused():
    with pytest.raises(PolicyError, match="will not be scored"):
        plan_gate(policy(benchmarks={"mmlu": {"tier": "critical"}}), six())
    with pytest.raises(PolicyError, match="no items"):
        plan_gate(policy(), six(0))


def test_thresholds_of_the_planner():
    assert plan_gate(policy(), six(800), config=GatePlanConfig(fine_power=0.5)).word == "fine"
    assert plan_gate(policy(), six(800), config=GatePlanConfig(least_power=0.75)).word == "refused"


def test_the_hoped_for_gain_and_its_flips_move_the_power():
    def power(**changes):
        return plan_gate(policy(), six(), planned_target(200, GatePlanConfig(**changes))).power

    assert power() > power(target_gain_points=4) > power(target_gain_points=4, target_flip_rate=0.6)
    assert plan_gate(policy(), six(600), config=GatePlanConfig(seed=1)).power != plan_gate(policy(), six(600)).power
    assert plan_gate(policy(), six(600), config=GatePlanConfig(runs=500)).power != plan_gate(policy(), six(600)).power
