"""Which tokens are computed once: requests become rows (token trees), rows become batches. Pure, no torch.

All continuations of an item share its context, so one row holds the context once and every continuation as a branch:
a token's position is its depth in the tree, and it sees its ancestors only (tree attention: SpecInfer, Miao et al.
2024, arXiv 2305.09781, section 3). What all rows of a task begin with (fixed few-shot examples) is a prefix, computed
once for the task. The plan depends on the requests and the budget alone, never on the machine or on what ran before.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

# A shared beginning shorter than this costs more (a mask instead of the causal kernel) than it saves.
MIN_PREFIX = 16


@dataclass(frozen=True)
class Request:
    """Tokens of one continuation after its context; `group` holds what may share a row (the item)."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    group: Hashable = None

    def inputs(self, max_length: int) -> tuple[int, ...]:
        """What the model reads: all but the last token, its left end cut off where it is too long (lm-eval's rule)."""
        return (self.context + self.continuation)[-(max_length + 1) :][:-1]

    def truncated(self, max_length: int) -> bool:
        return len(self.context) + len(self.continuation) > max_length + 1


@dataclass
class Row:
    """A token tree in depth-first order; `after` is the number of prefix tokens that stand before it."""

    after: int = 0
    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    segments: list[tuple[int, int]] = field(default_factory=list)  # (first node, its parent node or -1)
    scored: list[tuple[int, list[int], tuple[int, ...]]] = field(default_factory=list)  # (request, nodes, next tokens)

    def add(self, request: int, inputs: Sequence[int], targets: tuple[int, ...], path: list[int]) -> list[int]:
        """Grow the branch of a request; `path` is the part of its way through the tree that is there already."""
        start = len(self.tokens)
        fresh = list(inputs[len(path) :])
        if fresh:
            self.segments.append((start, path[-1] if path else -1))
            self.tokens += fresh
            self.depths += range(self.after + len(path), self.after + len(inputs))
        path = path + list(range(start, start + len(fresh)))
        self.scored.append((request, path[len(path) - len(targets) :], targets))
        return path

    @property
    def is_chain(self) -> bool:
        """One unbroken sequence from the start: the model's own causal mask fits it."""
        return self.after == 0 and len(self.segments) == 1

    def reaches(self, depth: int) -> bool:
        """Whether a position in it is ``depth`` or more."""
        return max(self.depths) >= depth

    @property
    def n_scored(self) -> int:
        return len({node for _, nodes, _ in self.scored for node in nodes})

    def sees(self) -> "np.ndarray":
        """bool [n, n]: which node attends to which, ancestors and itself (prefix tokens, seen by all, not included)."""
        n = len(self.tokens)
        mask = np.zeros((n, n), dtype=bool)
        for (start, parent), end in zip(self.segments, [s for s, _ in self.segments[1:]] + [n], strict=True):
            if parent >= 0:
                mask[start:end] = mask[parent]
            mask[start:end, start:end] |= np.tri(end - start, dtype=bool)
        return mask


@dataclass(frozen=True)
class Plan:
    """Rows in batches, longest first, and the prefix that rows with `after` > 0 stand behind."""

    prefix: tuple[int, ...]
    batches: list[list[Row]]


def make(requests: Sequence[Request], *, max_length: int, budget: int, scored_budget: int, tree: bool, max_depth: int) -> Plan:  # fmt: skip
    """Plan for `requests`: no batch above `budget` tokens (padding included) or `scored_budget` scored positions,
    except that a single row always fits. `tree` off gives one row a distinct input; rows deeper than `max_depth`
    (a sliding window, where ancestors are no longer all in sight) are plain as well, and in batches of their own.
    """
    inputs = [request.inputs(max_length) for request in requests]
    plain = {i for i, ids in enumerate(inputs) if not tree or len(ids) > max_depth}
    prefix = common_prefix([inputs[i] for i in range(len(inputs)) if i not in plain], _heads(requests, inputs, plain))
    rows: list[Row] = []
    for members in _groups(requests, inputs, plain).values():
        rows += _grow(members, requests, inputs, prefix, budget)
    return Plan(prefix, list(_batched(rows, budget, scored_budget, max_depth)))


def _heads(requests: Sequence[Request], inputs: list[tuple[int, ...]], plain: set[int]) -> list[int]:
    """How much of each input may be prefix: all before the first scored position."""
    return [len(ids) - len(requests[i].continuation) for i, ids in enumerate(inputs) if i not in plain]


def common_prefix(inputs: Sequence[tuple[int, ...]], heads: Sequence[int]) -> tuple[int, ...]:
    """The beginning that saves most tokens when computed once: shared with the middle one of the sorted inputs."""
    if len(inputs) < 4:
        return ()
    middle = sorted(inputs)[len(inputs) // 2]
    shared = sorted((min(_common(middle, ids), head) for ids, head in zip(inputs, heads, strict=True)), reverse=True)
    count, length = max(enumerate(shared, 1), key=lambda pair: pair[0] * pair[1])
    return middle[:length] if length >= MIN_PREFIX and count * 2 >= len(inputs) else ()


def _common(one: Sequence[int], two: Sequence[int]) -> int:
    n = min(len(one), len(two))
    differ = np.flatnonzero(np.asarray(one[:n]) != np.asarray(two[:n]))
    return int(differ[0]) if differ.size else n


def _groups(requests: Sequence[Request], inputs: list[tuple[int, ...]], plain: set[int]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        groups[inputs[i] if i in plain else ("item", request.group)].append(i)
    return groups


def _grow(members: list[int], requests: Sequence[Request], inputs: list[tuple[int, ...]], prefix: tuple[int, ...], budget: int) -> list[Row]:  # fmt: skip
    """Rows of one group: a new row begins where nothing is shared with the one before, or where the row would be too long."""
    rows: list[Row] = []
    last: tuple[int, ...] = ()
    path: list[int] = []
    for i in sorted(members, key=lambda i: inputs[i]):
        head = len(inputs[i]) - len(requests[i].continuation)
        after = len(prefix) if prefix and head >= len(prefix) and inputs[i][: len(prefix)] == prefix else 0
        ids = inputs[i][after:]
        shared = _common(last, ids) if rows and rows[-1].after == after else 0
        if shared == 0 or len(rows[-1].tokens) + len(ids) - shared > budget:
            rows.append(Row(after))
            path, shared = [], 0
        path = rows[-1].add(i, ids, requests[i].continuation, path[:shared])
        last = ids
    return rows


def _batched(rows: list[Row], budget: int, scored_budget: int, max_depth: int) -> Iterator[list[Row]]:
    """Rows of like length together (none a fifth shorter than the longest), longest first: little padding, and a lack of
    memory shows at once."""
    batch: list[Row] = []
    scored = 0
    for row in sorted(rows, key=lambda row: (row.after, row.is_chain, -len(row.tokens), row.tokens)):
        same = not batch or (
            row.after == batch[0].after and row.is_chain == batch[0].is_chain and row.reaches(max_depth) == batch[0].reaches(max_depth) and 5 * len(row.tokens) >= 4 * len(batch[0].tokens)
        )  # fmt: skip
        full = batch and ((len(batch) + 1) * len(batch[0].tokens) > budget or scored + row.n_scored > scored_budget)
        if batch and (full or not same):
            yield batch
            batch, scored = [], 0
        batch.append(row)
        scored += row.n_scored
    if batch:
        yield batch
