import pytest

from retain.errors import IntegrityError
from retain.gate.config import GatePolicy
from retain.gate.judge import judge
from retain.gate.ledger import Entry, append, as_rows, balance, entry, from_rows
from retain.gate.repeat import check_repeatable

PLAN = {**{f"bench{i}": (1500, 0.003, 0.05) for i in range(4)}, "target": (300, -0.4, 0.5)}


def line(generation, drop, upper=0.0, base="sha256:b"):
    return Entry(generation, f"sha256:{generation}", base, "pass", drop, drop - 0.5, drop + 0.5, upper, 2.0)


def test_a_verdict_becomes_a_line(scores, draw, tuned_digest):
    base, tuned = draw(PLAN)
    sides = scores(base, "sha256:b"), scores(tuned, tuned_digest)
    alone = judge(*sides, GatePolicy()).as_dict()
    both = judge(*sides, GatePolicy(), champion=scores(tuned, "sha256:c")).as_dict()
    first, second = entry(alone, 1), entry(both, 2)
    assert (first.base_digest, first.budget_points) == ("sha256:b", 2.0)
    assert first.drop_points == second.drop_points == alone["macro"]["drop_points"]
    assert both["macro"]["drop_points"] == 0
    assert from_rows(as_rows(append([first], second))) == (first, second)


def test_drops_add_up_until_the_budget_is_spent():
    entries = append(append([line(1, 0.5)], line(2, 0.9)), line(3, 1.6, upper=2.1))
    state = balance(entries)
    assert (state.generations, state.spent_points, state.exceeded) == (3, 1.6, True)
    assert state.left_points == pytest.approx(0.4)
    assert state.worst_step_points == pytest.approx(0.7)
    assert not balance(entries[:2]).exceeded
    assert balance([]).generations == 0


def test_a_ledger_has_one_base_and_an_order():
    with pytest.raises(IntegrityError, match="one original base"):
        append([line(1, 0.1)], line(2, 0.1, base="sha256:other"))
    with pytest.raises(IntegrityError, match="already"):
        append([line(1, 0.1)], line(1, 0.1))


def test_a_model_that_answers_differently_when_scored_again_is_refused(scores, draw):
    base, other = draw({"bench": (1000, 0.0, 0.004)})
    first, again = scores(base), scores(other)
    again[1]["batch_budget"] = 1
    assert 0 < check_repeatable(first, again)["bench"] < 0.01
    with pytest.raises(IntegrityError, match="differently"):
        check_repeatable(first, again, most=0.001)
    with pytest.raises(IntegrityError, match="one model twice"):
        check_repeatable(first, scores(other, "sha256:other"))
