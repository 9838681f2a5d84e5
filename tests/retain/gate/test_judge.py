"""The decision on whole scorings: every condition, every refusal, and what must not matter."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retain.artifacts import ITEM_SCHEMA
from retain.config import parse
from retain.errors import IntegrityError, PolicyError
from retain.gate.config import GatePolicy
from retain.gate.judge import Case, judge, judge_case, make_case
from retain.gate.pairs import count, join
from retain.gate.waivers import Waiver

NO_TARGET = {"target": {"rule": "none"}}
FINE = {f"bench{i}": (1500, 0.0, 0.05) for i in range(6)}
WON = {"target": (300, -0.4, 0.5)}


def policy(**changes):
    return parse(GatePolicy, changes)


@pytest.fixture
def decide(scores, draw, tuned_digest):
    """decide(plan, policy, …) → the verdict on drawn items."""

    def run(plan, how=None, *, seed=0, per_cluster=1, chance=0.25, **more):
        base, tuned = draw(plan, seed)
        left, right = (scores(v, d, per_cluster=per_cluster, chance=chance) for v, d in ((base, "sha256:b"), (tuned, tuned_digest)))  # fmt: skip
        return judge(left, right, how or policy(), **more)

    return run


def codes(verdict):
    return {r.code for r in verdict.reasons}


# What each condition decides


def test_a_macro_loss_is_regressed(decide):
    verdict = decide({**dict.fromkeys(FINE, (1500, 0.03, 0.08)), **WON})
    assert (verdict.verdict, verdict.exit_code) == ("regressed", 3)
    assert "macro_margin" in codes(verdict)


def test_too_few_items_are_inconclusive_and_say_how_many_would_decide(decide):
    verdict = decide({**dict.fromkeys(FINE, (120, 0.0, 0.1)), **WON})
    assert (verdict.verdict, verdict.action, verdict.exit_code) == ("inconclusive", "stop", 4)
    needed = next(r.items_needed for r in verdict.reasons if r.code == "too_few_items")
    assert 600 < needed < 4000
    assert decide({**dict.fromkeys(FINE, (2 * needed, 0.0, 0.1)), **WON}).verdict == "pass"


def test_an_unimproved_target_is_inconclusive_and_not_repaired(decide):
    verdict = decide({**FINE, "target": (300, 0.0, 0.2)}, policy(on_fail="repair"))
    assert (verdict.verdict, verdict.action, codes(verdict)) == ("inconclusive", "stop", {"target_not_improved"})


def test_a_worse_target_is_regressed(decide):
    verdict = decide({**FINE, "target": (300, 0.2, 0.3)})
    assert (verdict.verdict, codes(verdict)) == ("regressed", {"target_worse"})


def test_target_rules(decide):
    same = {**FINE, "target": (2000, 0.0, 0.02)}
    assert codes(decide(same, policy(target={"rule": "improved"}), seed=3)) == {"target_not_improved"}
    assert decide(same, policy(target={"rule": "not_worse", "max_drop": 2}), seed=3).verdict == "pass"
    assert decide(same, policy(target={"rule": "not_worse", "max_drop": 0.2}), seed=3).verdict == "inconclusive"
    assert decide(FINE, policy(**NO_TARGET)).verdict == "pass"


def test_a_gain_that_is_too_small(decide):
    plan = {**FINE, "target": (2000, -0.05, 0.2)}
    assert decide(plan).verdict == "pass"
    assert codes(decide(plan, policy(target={"min_gain_points": 10}))) == {"target_not_improved"}


def test_a_continuous_target(scores, draw, tuned_digest):
    base, tuned = draw(FINE)
    rng = np.random.default_rng(0)
    losses = rng.normal(2, 0.5, 200)
    left = scores({**base, "target": losses}, "sha256:b")
    for shift, word in ((-0.3, "pass"), (0.0, "inconclusive"), (0.3, "regressed")):
        right = scores({**tuned, "target": losses + shift + rng.normal(0, 0.3, 200)}, tuned_digest)
        lower = [
            (
                table.set_column(7, "higher_is_better", pa.array([t != "target" for t in table["task"].to_pylist()])),
                meta,
            )
            for table, meta in (left, right)
        ]
        assert judge(*lower, policy()).verdict == word


def test_tiers(decide):
    plan = {**FINE, **WON, "bench2": (1500, 0.05, 0.1)}
    assert decide(plan).verdict == "regressed"
    assert decide(plan, policy(benchmarks={"bench2": {"tier": "advisory"}})).verdict == "pass"
    wide = policy(benchmarks={"bench1": {"tier": "critical", "max_drop": 3}})
    narrow = policy(benchmarks={"bench1": {"tier": "critical", "max_drop": 0.5}})
    assert decide({**FINE, **WON}, wide).verdict == "pass"
    assert codes(decide({**FINE, **WON}, narrow)) == {"critical_margin", "too_few_items"}


def test_max_drop_is_the_floor_of_a_significant_drop(decide):
    plan = {**FINE, **WON, "bench2": (6000, 0.02, 0.03)}
    assert "benchmark_drop" in codes(decide(plan))
    assert decide(plan, policy(defaults={"max_drop": 4})).verdict == "pass"


def test_a_wider_macro_margin_passes_more(decide):
    plan = {**dict.fromkeys(FINE, (1500, 0.012, 0.05)), **WON}
    assert decide(plan, policy(defaults={"max_drop": 5})).verdict != "pass"
    assert decide(plan, policy(defaults={"max_drop": 5}, macro_margin_points=3)).verdict == "pass"


def test_weights_move_the_macro(decide):
    plan = {"small": (9000, 0.0, 0.05), "large": (9000, 0.03, 0.05)}
    rest = {**NO_TARGET, "defaults": {"max_drop": 10}}
    assert decide(plan, policy(**rest, weights={"small": 0.95, "large": 0.05})).verdict == "pass"
    assert decide(plan, policy(**rest, weights={"small": 0.5, "large": 0.5})).verdict == "regressed"
    with pytest.raises(PolicyError, match="no weight"):
        decide(plan, policy(**rest, weights={"small": 1.0}))


def test_a_benchmark_near_chance_is_left_out(decide):
    plan = {**FINE, **WON}
    verdict = decide(plan, policy(chance_margin_points=30), chance=0.25)
    assert verdict.verdict == "pass"
    with pytest.raises(PolicyError, match="nothing can be decided"):
        decide(plan, policy(chance_margin_points=40), chance=0.25)
    assert {row["status"] for row in verdict.benchmarks} == {"judged"}


def test_a_critical_benchmark_near_chance_closes_the_gate(scores, draw, tuned_digest):
    base, tuned = draw({**FINE, **WON})
    base["bench0"] = tuned["bench0"] = np.tile([1.0, 0, 0, 0], 400)
    both = scores(base, "sha256:b"), scores(tuned, tuned_digest)
    verdict = judge(*both, policy())
    assert (verdict.verdict, verdict.macro["benchmarks"]) == ("pass", 5)
    assert [row["name"] for row in verdict.benchmarks if row["status"] == "uninformative"] == ["bench0"]
    strict = judge(*both, policy(benchmarks={"bench0": {"tier": "critical", "max_drop": 5}}))
    assert (strict.verdict, codes(strict)) == ("inconclusive", {"uninformative"})


def test_saturated_benchmarks_are_marked(scores, draw, tuned_digest):
    base, tuned = draw({**FINE, **WON})
    base["bench0"] = tuned["bench0"] = np.array([1.0] * 990 + [0.0] * 10)
    both = scores(base, "sha256:b"), scores(tuned, tuned_digest)
    assert [r["saturated"] for r in judge(*both, policy()).benchmarks] == [True] + [False] * 5
    assert not any(r["saturated"] for r in judge(*both, policy(saturated_percent=99.5)).benchmarks)


def test_equal_digests_pass_with_that_reason(decide, tuned_digest, scores, draw):
    base, _ = draw({**FINE, **WON})
    verdict = judge(scores(base, tuned_digest), scores(base, tuned_digest), policy())
    assert (verdict.verdict, codes(verdict)) == ("pass", {"equal_digests"})


def test_a_model_against_itself_must_answer_alike_whatever_its_batches(tuned_digest, scores, draw):
    """The A/A check: other batches are what it tries; an item in a hundred may change its answer, more is no verdict."""
    base, again = draw({"bench": (1000, 0.0, 0.004)})
    (table, meta), first = scores(again, tuned_digest), scores(base, tuned_digest)
    verdict = judge(first, (table, {**meta, "batch_budget": 7}), policy(target={"rule": "none"}))
    assert (verdict.verdict, codes(verdict)) == ("pass", {"equal_digests"})
    assert 0 < verdict.benchmarks[0]["flip_rate"] < 0.01
    one, loud = draw({"bench": (1000, 0.0, 0.02)})
    with pytest.raises(IntegrityError, match="answers differently"):
        judge(scores(one, tuned_digest), scores(loud, tuned_digest), policy(target={"rule": "none"}))


# Attempts, repair, looks, approval


def test_attempts_spend_alpha_and_end(decide):
    plan = {**FINE, **WON}
    assert [decide(plan, attempt=a).alpha for a in (1, 2, 3, 4)] == [0.05, 0.025, 0.0125, 0.00625]
    spent = decide(plan, attempt=3, how=policy(attempts=2))
    assert (spent.verdict, spent.action, codes(spent)) == ("inconclusive", "stop", {"budget_spent"})


def test_alpha_moves_the_verdict(decide):
    plan = {**dict.fromkeys(FINE, (700, 0.0, 0.1)), **WON}
    words = [decide(plan, policy(alpha=a), seed=1).verdict for a in (0.2, 0.0001)]
    assert words == ["pass", "inconclusive"]


def test_fail_alpha_moves_the_verdict(decide):
    plan = {**FINE, **WON, "bench2": (600, 0.025, 0.05)}
    assert [("benchmark_drop" in codes(decide(plan, policy(fail_alpha=a)))) for a in (0.2, 0.0001)] == [True, False]


def test_a_repair_is_asked_for_where_it_can_help(decide):
    plan = {**FINE, **WON, "bench2": (1500, 0.06, 0.1)}
    assert [decide(plan, policy(on_fail=f)).action for f in ("stop", "repair")] == ["stop", "repair"]
    assert decide(plan, policy(on_fail="repair"), attempt=4).action == "stop"


def test_dev_items_are_set_apart_only_for_a_repair(decide):
    plan = {**FINE, **WON}
    assert [decide(plan, policy(on_fail=f)).benchmarks[0]["n"] == 1500 for f in ("stop", "repair")] == [True, False]
    shares = [decide(plan, policy(on_fail="repair", dev_share=s)).benchmarks[0]["n"] / 1500 for s in (0.1, 0.5)]
    assert shares == pytest.approx([0.9, 0.5], abs=0.04)
    seeds = [decide(plan, policy(on_fail="repair", seed=s)).benchmarks[0]["base"] for s in (0, 1)]
    assert seeds[0] != seeds[1]


def test_four_looks_end_early_on_either_side(decide):
    gained = {**dict.fromkeys(FINE, (2000, -0.03, 0.05)), **WON}
    lost = {**dict.fromkeys(FINE, (2000, 0.12, 0.2)), **WON}
    won, failed = (decide(plan, policy(looks=4)) for plan in (gained, lost))
    assert (won.verdict, won.items_used_percent) == ("pass", 25.0)
    assert (failed.verdict, failed.items_used_percent) == ("regressed", 25.0)
    assert decide(gained).items_used_percent == 100


def test_a_scorer_may_ask_after_each_look(scores, draw, tuned_digest):
    base, tuned = draw({**dict.fromkeys(FINE, (500, -0.03, 0.05)), **WON})
    case = make_case(scores(base, "sha256:b"), scores(tuned, tuned_digest), policy(looks=4))
    asked = judge_case(dataclasses.replace(case, partial=2), policy(looks=4))
    assert (asked.look, asked.z) == (2, pytest.approx(2.451, abs=1e-3))
    assert asked.benchmarks[0]["n"] == 500


def test_a_required_approval_waits(decide):
    verdict = decide({**FINE, **WON}, policy(approval="required"))
    assert (verdict.verdict, verdict.action, verdict.exit_code) == ("pass", "wait", 5)


def test_how_a_run_ends_behind_a_closed_gate(decide):
    plan = {**FINE, "target": (300, 0.0, 0.2)}
    assert [decide(plan, policy(end_run=e)).fails_run for e in ("red", "green")] == [True, False]


# A retraining: the model in service, and the original base


def test_drops_add_up_against_the_original_base(scores, draw, tuned_digest):
    base, champion = draw({**dict.fromkeys(FINE, (3000, 0.016, 0.03)), **WON}, 1)
    rng = np.random.default_rng(2)
    tuned = {t: np.where(rng.random(len(v)) < 0.005, 0.0, v) for t, v in champion.items()}
    sides = scores(base, "sha256:b"), scores(tuned, tuned_digest)
    service = scores(champion, "sha256:c")
    against_both = judge(*sides, policy(), champion=service)
    assert [b["role"] for b in against_both.baselines] == ["champion", "base"]
    assert {(r.code, r.role) for r in against_both.reasons if r.code == "macro_margin"} == {
        ("macro_margin", "original")
    }
    wide = judge(*sides, policy(cumulative_factor=4), champion=service)
    assert (wide.verdict, wide.cumulative["macro"]["margin_points"]) == ("pass", 4.0)
    strict = judge(*sides, policy(cumulative_factor=4, target={"champion_rule": "improved"}), champion=service)
    assert {(r.code, r.role) for r in strict.reasons} & {("target_not_improved", "champion"), ("target_worse", "champion")}  # fmt: skip


# Waivers


def test_a_waiver_lifts_one_benchmark_and_nothing_else(decide, tuned_digest):
    waiver = Waiver("bench2", tuned_digest, "the release owner", "known fault of the set", "2026-12-31", "signed")
    fell = {**FINE, **WON, "bench2": (1500, 0.05, 0.1)}
    how = policy(macro_margin_points=3)
    assert decide(fell, how, today="2026-06-01").verdict == "regressed"
    assert decide(fell, how, waivers=[waiver], today="2026-06-01").verdict == "pass"
    expired = decide(fell, how, waivers=[waiver], today="2027-01-01")
    assert (expired.verdict, expired.waivers[0]["holds"]) == ("regressed", False)
    other = dataclasses.replace(waiver, candidate_digest="sha256:other")
    assert decide(fell, how, waivers=[other], today="2026-06-01").verdict == "regressed"
    macro = {**dict.fromkeys(FINE, (1500, 0.05, 0.1)), **WON}
    assert decide(macro, how, waivers=[dataclasses.replace(waiver, benchmark=b) for b in FINE], today="2026-06-01").verdict == "regressed"  # fmt: skip


# Warnings


def test_many_flips_warn(decide):
    plan = {**FINE, **WON, "bench0": (1500, 0.0, 0.2)}
    assert [w.split(":")[0] for w in decide(plan).warnings] == ["bench0"]
    assert not decide(plan, policy(warn_flips_percent=30)).warnings


def test_a_fallen_probability_of_the_right_choice_warns(scores, draw, tuned_digest):
    base, tuned = draw({**FINE, **WON})
    left, right = scores(base, "sha256:b"), scores(tuned, tuned_digest)
    sure = [(t.set_column(10, "p_gold", pa.array([p] * t.num_rows)), m) for (t, m), p in ((left, 0.60), (right, 0.58))]
    assert len(judge(*sure, policy()).warnings) == 6
    assert not judge(*sure, policy(warn_p_gold_points=3)).warnings


def test_general_text_that_became_less_likely_warns(scores, draw, tuned_digest):
    base, tuned = draw({**FINE, **WON})
    left, (table, meta) = scores(base, "sha256:b"), scores(tuned, tuned_digest)
    right = table, {**meta, "signals": {"rise": 0.08, "kl": 0.1}}
    assert [w.split(":")[0] for w in judge(left, right, policy()).warnings] == ["general text"]
    assert not judge(left, right, policy(warn_rise_nats=0.1)).warnings


# What cannot be compared


@pytest.fixture
def pair(scores, draw, tuned_digest):
    base, tuned = draw({"bench": (200, 0.0, 0.1), "target": (100, -0.3, 0.4)})
    return scores(base, "sha256:b"), scores(tuned, tuned_digest)


def edited(table, **columns):
    for name, change in columns.items():
        values = table[name].to_pylist()
        values[5] = change
        place = ITEM_SCHEMA.get_field_index(name)
        table = table.set_column(place, ITEM_SCHEMA.field(place), pa.array(values, ITEM_SCHEMA.field(place).type))
    return table


@pytest.mark.parametrize(
    "change", [{"doc_hash": "sha256:x"}, {"doc_id": "x"}, {"doc_id": "6"}, {"value": float("nan")}, {"value": 1.5}, {"value": -1.0}, {"task_version": "2"}, {"cluster": "x"}]
)  # fmt: skip
def test_changed_items_are_refused(pair, change):
    base, (table, meta) = pair
    with pytest.raises(IntegrityError):
        judge(base, (edited(table, **change), meta), policy())


def test_missing_and_doubled_items_are_refused(pair):
    base, (table, meta) = pair
    for wrong in (table.slice(1), pa.concat_tables([table, table.slice(0, 1)])):
        with pytest.raises(IntegrityError):
            judge(base, (wrong, meta), policy())


def test_a_benchmark_without_items_is_a_policy_that_cannot_conclude_and_on_one_side_items_are_missing(pair):
    (base, one), (table, two) = pair
    empty = [t.filter(pc.not_equal(t["task"], "bench")) for t in (base, table)]
    with pytest.raises(PolicyError, match="has no items"):
        judge((empty[0], one), (empty[1], two), policy())
    for left, right in ((base, empty[1]), (empty[0], table)):
        with pytest.raises(IntegrityError, match="the same items"):
            judge((left, one), (right, two), policy())


@pytest.mark.parametrize("key", ["engine", "engine_version", "dtype", "device", "batch_budget", "attention", "max_length", "tokenizer_digest", "template_digest"])  # fmt: skip
def test_other_settings_are_refused(pair, key):
    base, (table, meta) = pair
    with pytest.raises(IntegrityError, match=key):
        judge(base, (table, {**meta, key: "other"}), policy())


def test_models_of_different_families_may_be_compared_on_request(pair):
    base, (table, meta) = pair
    other = (table, {**meta, "tokenizer_digest": "other", "template_digest": "other"})
    assert judge(base, other, policy(same_tokenizer=False)).verdict in {"pass", "inconclusive", "regressed"}


@pytest.mark.parametrize("key", ["version", "num_fewshot", "fewshot_seed", "metric"])
def test_another_version_of_a_task_is_refused(pair, key):
    base, (table, meta) = pair
    tasks = {**meta["tasks"], "bench": {**meta["tasks"]["bench"], key: "other"}}
    with pytest.raises(IntegrityError, match=key):
        judge(base, (table, {**meta, "tasks": tasks}), policy())


def test_a_previewed_adapter_is_refused(pair):
    base, (table, meta) = pair
    with pytest.raises(IntegrityError, match="preview"):
        judge(base, (table, {**meta, "model_digest": "adapter-preview"}), policy())
    assert join(base, (table, {**meta, "model_digest": "adapter-preview"}), preview=True)


def test_a_policy_that_names_what_was_not_scored_is_refused(pair):
    with pytest.raises(PolicyError, match="no items"):
        judge(*pair, policy(benchmarks={"mmlu": {"tier": "critical"}}))
    with pytest.raises(PolicyError, match="target was not scored"):
        judge(*pair, policy(target={"name": "goal"}))


def test_fewer_than_twenty_clusters_are_refused(decide):
    with pytest.raises(PolicyError, match="clusters"):
        decide({"bench": (150, 0.0, 0.1)}, policy(**NO_TARGET), per_cluster=10)


def test_few_clusters_do_not_matter_where_nothing_rests_on_them(decide):
    plan = {"bench": (2000, 0.0, 0.05), "extra": (20, 0.0, 0.2)}
    how = policy(**NO_TARGET, benchmarks={"extra": {"tier": "advisory"}}, macro_margin_points=5)
    assert decide(plan, how, per_cluster=10).verdict == "pass"
    one = {"bench": (2000, 0.0, 0.05), "extra": (4, 0.0, 0.2)}
    assert decide(one, how, per_cluster=10).verdict == "pass"


def test_an_early_look_that_has_too_few_clusters_is_left_out(decide):
    plan = {"bench": (300, -0.2, 0.25)}
    verdict = decide(plan, policy(**NO_TARGET, looks=4), per_cluster=10)
    assert (verdict.verdict, verdict.look) == ("pass", 3)
    assert decide(plan, policy(**NO_TARGET, looks=4)).look < 3


def test_no_such_attempt_or_look(decide, scores, draw, tuned_digest):
    with pytest.raises(PolicyError, match="no such attempt"):
        decide(FINE, policy(**NO_TARGET), attempt=0)
    base, tuned = draw(FINE)
    case = make_case(scores(base, "sha256:b"), scores(tuned, tuned_digest), policy(**NO_TARGET))
    with pytest.raises(PolicyError, match="no such attempt or look"):
        judge_case(dataclasses.replace(case, partial=2), policy(**NO_TARGET))


def test_a_benchmark_without_decision_items_is_refused(decide):
    with pytest.raises(PolicyError, match="no items left"):
        decide({**FINE, "tiny": (1, 0.0, 0.5)}, policy(**NO_TARGET, on_fail="repair", dev_share=0.89, seed=1))


def test_clusters_cost_certainty(decide):
    plan = dict.fromkeys(FINE, (1500, 0.0, 0.05))
    upper = [decide(plan, policy(**NO_TARGET), per_cluster=c).macro["detectable_points"] for c in (1, 5)]
    assert upper[1] > upper[0]


# What must not matter (acceptance test 4)

ITEMS = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=30, max_size=60)
QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def numbers(verdict):
    return verdict.verdict, verdict.macro, [r.code for r in verdict.reasons]


@QUICK
@given(rows=ITEMS, seed=st.integers(0, 1000))
def test_order_and_naming_of_items_do_not_matter(scores, rows, seed):
    base, tuned = (np.array(side) for side in zip(*rows, strict=True))
    rng = np.random.default_rng(seed)
    order = rng.permutation(2 * len(rows))
    results = []
    for shuffle, rename in ((False, False), (True, False), (True, True)):
        sides = []
        for values, digest in ((base, "sha256:b"), (tuned, "sha256:t")):
            table, meta = scores({"zoo": values, "bench": values}, digest, chance=-1.0)
            if rename:
                names = [f"new {i}" for i in range(table.num_rows)]
                table = table.set_column(2, "doc_id", pa.array(names)).set_column(3, "doc_hash", pa.array(names)).set_column(4, "cluster", pa.array(names))  # fmt: skip
            sides.append((table.take(order) if shuffle else table, meta))
        results.append(numbers(judge(*sides, policy(**NO_TARGET))))
    assert results[0] == results[1] == results[2]


@QUICK
@given(values=st.lists(st.sampled_from([0.0, 1.0]), min_size=300, max_size=400))
def test_models_that_answer_alike_pass(scores, values):
    sides = [scores({"bench": values}, d, chance=-1.0) for d in ("sha256:b", "sha256:t")]
    assert judge(*sides, policy(**NO_TARGET)).verdict == "pass"


@QUICK
@given(rows=ITEMS)
def test_swapping_the_sides_swaps_losses_and_gains(scores, rows):
    base, tuned = (np.array(side) for side in zip(*rows, strict=True))
    one, two = (scores({"bench": v}, d) for v, d in ((base, "sha256:b"), (tuned, "sha256:t")))
    there, back = count(join(one, two)[0]), count(join(two, one)[0])
    assert (there.b, there.c, there.p_worse) == (back.c, back.b, back.p_better)
    assert float(there.summary.drop) == -float(back.summary.drop)


@QUICK
@given(rows=ITEMS, place=st.integers(0, 29))
def test_a_doubled_item_is_always_an_error(scores, rows, place):
    base, tuned = (np.array(side) for side in zip(*rows, strict=True))
    one, (table, meta) = (scores({"bench": v}, d) for v, d in ((base, "sha256:b"), (tuned, "sha256:t")))
    doubled = pa.concat_tables([table, table.slice(place, 1)])
    with pytest.raises(IntegrityError):
        judge(one, (doubled, meta), policy(**NO_TARGET))


def test_the_case_is_plain_data():
    assert {f.name for f in dataclasses.fields(Case)} == {"candidate_digest", "baselines", "attempt", "waivers", "today", "partial", "repaired", "asked", "signals"}  # fmt: skip
