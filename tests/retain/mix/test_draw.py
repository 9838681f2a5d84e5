import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retain.mix.draw import Source, budget_for, by_budget, by_weight, draw, interleave, tokens_of


def source(lengths: list[int], name: str = "s", weight: float = 1.0, first: int = 0) -> Source:
    return Source(name, np.arange(first, first + len(lengths)), np.array(lengths), weight)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 4000), st.integers(0, 9))
def test_a_draw_misses_its_budget_by_at_most_half_of_the_longest_row(
    lengths: list[int], budget: int, seed: int
) -> None:
    one = source(lengths)
    rows = draw(one, budget, np.random.default_rng(seed))
    assert len(set(rows.tolist())) == len(rows)
    assert abs(tokens_of(one, rows) - min(budget, one.total)) <= max(lengths) / 2


def test_the_last_row_is_the_one_that_fits_best() -> None:
    one = source([100, 100, 100, 7, 13])
    for seed in range(20):
        assert abs(tokens_of(one, draw(one, 107, np.random.default_rng(seed))) - 107) <= 50
    assert tokens_of(source([50, 10]), draw(source([50, 10]), 12, rng())) == 10


def test_many_rows_meet_a_budget_to_the_token() -> None:
    lengths = np.random.default_rng(1).integers(45, 300, 400).tolist()
    misses = [
        abs(tokens_of(source(lengths), draw(source(lengths), 9_000, np.random.default_rng(seed))) - 9_000)
        for seed in range(20)
    ]
    assert max(misses) <= 2


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 3000))
def test_repeating_reaches_any_budget_and_repeats_evenly(lengths: list[int], budget: int) -> None:
    one = source(lengths)
    rows = draw(one, budget, rng(), repeat=True)
    assert abs(tokens_of(one, rows) - budget) <= max(lengths) / 2
    times = np.bincount(rows, minlength=len(lengths))
    assert times.max() - times.min() <= 1


def test_sources_share_a_budget_by_weight_and_tokens() -> None:
    few, many = source([10] * 50, "few", weight=2.0), source([10] * 100, "many", first=50)
    rows = by_budget([few, many], 800, rng(), repeat=False)
    assert (rows < 50).sum() == 40  # 2 × 500 : 1 × 1000
    assert len(rows) == 80


def test_a_source_that_runs_dry_leaves_its_part_to_the_others() -> None:
    few, many = source([10] * 5, "few", weight=9.0), source([10] * 100, "many", first=5)
    rows = by_budget([few, many], 500, rng(), repeat=False)
    assert (rows < 5).sum() == 5
    assert len(rows) == 50


def test_a_target_source_is_taken_as_often_as_its_weight_says() -> None:
    rows = by_weight([source([10] * 20, "half", 0.5), source([10] * 20, "twice", 2.0, first=20)], rng())
    assert ((rows < 20).sum(), (rows >= 20).sum()) == (10, 40)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 200), min_size=20, max_size=120), st.lists(st.integers(1, 200), min_size=1, max_size=20))
def test_every_stretch_holds_its_share_to_within_a_row_of_each_stream(target: list[int], replay: list[int]) -> None:
    tokens = np.array(target + replay)
    first = len(target)
    order = interleave(
        {"target": (np.arange(first), tokens[:first]), "replay": (np.arange(first, len(tokens)), tokens[first:])}
    )
    assert sorted(order.tolist()) == list(range(len(tokens)))
    whole, is_replay = np.cumsum(tokens[order]), np.cumsum(np.where(order >= first, tokens[order], 0))
    share = sum(replay) / tokens.sum()
    assert np.abs(is_replay - share * whole).max() <= max(target) + max(replay)


def test_the_same_seed_draws_the_same_rows() -> None:
    one = source(list(range(1, 60)))
    assert np.array_equal(draw(one, 300, np.random.default_rng(3)), draw(one, 300, np.random.default_rng(3)))
    assert not np.array_equal(draw(one, 300, np.random.default_rng(3)), draw(one, 300, np.random.default_rng(4)))


@pytest.mark.parametrize(("share", "others"), [(0.05, 0.0), (0.25, 0.1)])
def test_a_budget_makes_its_share_of_the_whole(share: float, others: float) -> None:
    target = 100_000
    replay, rest = budget_for(share, others, target), budget_for(others, share, target)
    assert replay / (target + replay + rest) == pytest.approx(share, abs=1e-4)
