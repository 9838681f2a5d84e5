"""Token trees: what is computed once, who sees whom, and that nothing about the order of requests matters."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retain.score import plan
from retain.score.plan import Request

TOKENS = st.lists(st.integers(1, 4), min_size=1, max_size=6).map(tuple)
REQUESTS = st.lists(st.builds(Request, TOKENS, TOKENS, st.integers(0, 3)), min_size=1, max_size=12)


def made(
    requests: list[Request], *, budget: int = 64, tree: bool = True, max_length: int = 99, max_depth: int = 99
) -> plan.Plan:
    return plan.make(requests, max_length=max_length, budget=budget, scored_budget=1000, tree=tree, max_depth=max_depth)


def ways(todo: plan.Plan) -> dict[int, tuple[list[int], list[int], list[int]]]:
    """request → (tokens the scored node sees in order, their positions, the scored nodes' number), read from the masks."""
    found = {}
    for row in (row for batch in todo.batches for row in batch):
        sees = row.sees()
        for request, nodes, targets in row.scored:
            line = np.flatnonzero(sees[nodes[-1]])
            before = list(todo.prefix) if row.after else []
            tokens = before + [row.tokens[k] for k in line]
            found[request] = (
                tokens,
                list(range(len(before))) + [row.depths[k] for k in line],
                [len(nodes), len(targets)],
            )
    return found


@settings(max_examples=100, deadline=None)
@given(REQUESTS, st.booleans(), st.integers(6, 20))
def test_every_request_sees_exactly_its_own_tokens_at_their_positions(
    requests: list[Request], tree: bool, max_length: int
) -> None:
    for i, (tokens, positions, counts) in ways(made(requests, tree=tree, max_length=max_length)).items():
        assert tuple(tokens) == requests[i].inputs(max_length)
        assert positions == list(range(len(tokens)))
        assert counts == [len(requests[i].continuation)] * 2


@settings(max_examples=100, deadline=None)
@given(REQUESTS)
def test_every_request_is_answered_once(requests: list[Request]) -> None:
    asked = [request for batch in made(requests).batches for row in batch for request, _, _ in row.scored]
    assert sorted(asked) == list(range(len(requests)))


def test_a_context_is_computed_once_for_all_its_choices() -> None:
    context = tuple(range(10, 30))
    requests = [Request(context, (1, 2, 3), "item"), Request(context, (1, 5), "item"), Request(context, (7,), "item")]
    [[row]] = made(requests).batches
    # The context, then 1 2 of the first choice; the second's 1 is shared, and last tokens are never read.
    assert row.tokens == [*context, 1, 2]
    assert row.n_scored == 3
    assert made(requests, tree=False).batches[0][0].is_chain


def test_fixed_examples_are_a_prefix_computed_once_for_the_task() -> None:
    shots = tuple(range(100, 140))
    requests = [Request((*shots, 1, 2 + i), (5, 6 + k), i) for i in range(5) for k in range(3)]
    todo = made(requests)
    assert todo.prefix == (*shots, 1)
    assert all(row.after == 41 and len(row.tokens) == 2 for batch in todo.batches for row in batch)


def test_an_odd_request_does_not_cost_the_others_their_prefix() -> None:
    shots = tuple(range(100, 140))
    requests = [Request((*shots, i), (5, 6), i) for i in range(6)] + [Request((0,), (5, 6), 0)]
    todo = made(requests)
    assert todo.prefix[:40] == shots
    assert {row.after for batch in todo.batches for row in batch} == {0, 40}


def test_batches_keep_the_budget_and_start_with_the_longest() -> None:
    requests = [Request(tuple(range(1, 3 + i)), (9,), i) for i in range(20)]
    batches = made(requests, budget=40).batches
    assert all(len(batch) * max(len(row.tokens) for row in batch) <= 40 for batch in batches)
    lengths = [len(row.tokens) for batch in batches for row in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_rows_too_deep_for_a_sliding_window_are_plain() -> None:
    requests = [Request(tuple(range(20)), (1 + k, 2), "long") for k in range(2)] + [
        Request((1, 2), (3 + k, 4), "short") for k in range(2)
    ]
    rows = [row for batch in made(requests, max_depth=10).batches for row in batch]
    assert sorted(len(row.scored) for row in rows) == [1, 1, 2]


def test_no_row_is_padded_by_more_than_a_quarter() -> None:
    requests = [Request((1000 + i, *range(20 + i)), (9,), i) for i in range(60)]
    sizes = [[len(row.tokens) for row in batch] for batch in made(requests, budget=4096).batches]
    assert all(5 * min(batch) >= 4 * max(batch) for batch in sizes)
    assert len(sizes) < 10
