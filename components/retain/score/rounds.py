"""Items in the order of a gate's looks: a part of each benchmark after the other, so that scoring may end when it has decided.

Which item stands in which round is the gate's own split (retain.gate.split), by whole clusters. A round is a job of its own
with a key of its own: its batches are a function of its items, for the baseline as for the candidate.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from retain.gate.split import look_of
from retain.score.config import TARGET_TASK

if TYPE_CHECKING:
    from retain.score.target import TargetRow
    from retain.score.tasks import Leaf


def of_leaves(leaves: "Sequence[Leaf]", seed: int, count: int) -> "list[list[Leaf]]":
    """``count`` rounds of leaves, each with that round's documents only; the leaves of a benchmark are split together."""
    if count == 1:
        return [list(leaves)]
    found: list[list[Leaf]] = [[] for _ in range(count)]
    for benchmark in dict.fromkeys(leaf.benchmark for leaf in leaves):
        for number, leaf in _split([leaf for leaf in leaves if leaf.benchmark == benchmark], seed, count):
            found[number].append(leaf)
    return found


def _split(leaves: "list[Leaf]", seed: int, count: int) -> "list[tuple[int, Leaf]]":
    from retain.score import tasks

    places = [(i, number, tasks.cluster_of(doc)) for i, leaf in enumerate(leaves) for number, doc in leaf.docs()]  # fmt: skip
    rounds = look_of(seed, leaves[0].benchmark, tuple(cluster for *_, cluster in places), count)
    only: dict[tuple[int, int], set[int]] = {}
    for (i, number, _), look in zip(places, rounds.tolist(), strict=True):
        only.setdefault((look - 1, i), set()).add(number)
    return [(look, replace(leaves[i], chosen=frozenset(numbers))) for (look, i), numbers in sorted(only.items())]


def of_rows(rows: "Sequence[TargetRow]", seed: int, count: int) -> "list[list[TargetRow]]":
    """The test rows of each round."""
    if count == 1:
        return [list(rows)]
    looks = look_of(seed, TARGET_TASK, tuple(row.sha for row in rows), count).tolist()
    return [[row for row, look in zip(rows, looks, strict=True) if look == number] for number in range(1, count + 1)]
