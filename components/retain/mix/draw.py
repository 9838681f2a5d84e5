"""Which rows, in which order: budgets in tokens, met to within half a row, and an even interleave. Pure.

A stream is a part (target, replay, safety); a source is a file of rows within it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Ints = np.ndarray
TRIES = 16


@dataclass(frozen=True)
class Source:
    """Rows of one file: their numbers, their tokens, and the file's weight among the others of its part."""

    name: str
    rows: Ints  # row numbers
    tokens: Ints  # tokens of each
    weight: float = 1.0

    @property
    def total(self) -> int:
        return int(self.tokens.sum())


def by_weight(sources: Sequence[Source], rng: np.random.Generator) -> Ints:
    """Row numbers of the target part: weight 1 takes each row once, 2 twice, 0.5 half of the tokens."""
    return np.concatenate([draw(source, round(source.weight * source.total), rng, repeat=True) for source in sources])


def by_budget(sources: Sequence[Source], budget: int, rng: np.random.Generator, *, repeat: bool) -> Ints:
    """Row numbers with ``budget`` tokens in all, shared among the sources by weight × tokens; a source that runs dry
    (without ``repeat``) leaves its part to the others. The last source takes up the rounding of those before it."""
    parts = _shares(sources, budget, repeat=repeat)
    chosen, planned, used = [np.empty(0, dtype=np.int64)], 0, 0
    for i in sorted(range(len(sources)), key=lambda i: (sources[i].total, sources[i].name)):
        planned += parts[i]
        rows = draw(sources[i], planned - used, rng, repeat=repeat)
        used += tokens_of(sources[i], rows)
        chosen.append(rows)
    return np.concatenate(chosen)


def _shares(sources: Sequence[Source], budget: int, *, repeat: bool) -> list[int]:
    """Tokens asked of each source; ∝ weight × tokens, none above what it has unless rows may repeat."""
    room = np.array([source.total for source in sources], dtype=float)
    wish = np.array([source.weight for source in sources]) * room
    given = np.zeros(len(sources))
    for _ in sources:
        open_ = (given < room) if not repeat else np.ones(len(sources), dtype=bool)
        rest = budget - given.sum()
        if rest <= 0 or not (wish * open_).sum():
            break
        given = given + rest * wish * open_ / (wish * open_).sum()
        if not repeat:
            given = np.minimum(given, room)
    return [round(tokens) for tokens in given]


def draw(source: Source, budget: int, rng: np.random.Generator, *, repeat: bool = False) -> Ints:
    """Row numbers in random order whose tokens come as near to ``budget`` as one last, best-fitting row can bring them."""
    if not len(source.rows) or budget <= 0:
        return np.empty(0, dtype=np.int64)
    whole, rest = (
        divmod(budget, source.total)
        if repeat
        else (int(budget >= source.total), 0 if budget >= source.total else budget)
    )
    rounds = [rng.permutation(len(source.rows)) for _ in range(whole)]
    if rest:
        rounds.append(_nearest(source.tokens, rest, rng.permutation(len(source.rows))))
    return source.rows[np.concatenate(rounds)] if rounds else np.empty(0, dtype=np.int64)


def _nearest(tokens: Ints, budget: int, order: Ints) -> Ints:
    """A beginning of ``order`` within ``budget``, and one further row (or none) that brings the sum nearest to it; up to
    TRIES of the last rows are given back where another one fits better in their place."""
    sums = np.concatenate([[0], np.cumsum(tokens[order])])
    fits = int(np.searchsorted(sums, budget, side="right")) - 1
    best, missed = order[:fits], budget - int(sums[fits])
    for kept in range(fits, max(fits - TRIES, -1), -1):
        missing, later = budget - int(sums[kept]), order[fits:]
        if not missed or not len(later):
            break
        last = int(np.argmin(np.abs(tokens[later] - missing)))
        if abs(int(tokens[later[last]]) - missing) < missed:
            best, missed = np.append(order[:kept], later[last]), abs(int(tokens[later[last]]) - missing)
    return best


def tokens_of(source: Source, rows: Ints) -> int:
    """Tokens of the rows that were drawn from a source (its rows ascend), repeats counted."""
    return int(source.tokens[np.searchsorted(source.rows, rows)].sum())


def interleave(streams: Mapping[str, tuple[Ints, Ints]]) -> Ints:
    """All rows of all streams (name → row numbers, tokens) so that every stretch of the result holds each stream's share
    of tokens to within one row: a row stands where the middle of its tokens stands in its own stream."""
    rows, places = [], []
    for numbers, tokens in (streams[name] for name in sorted(streams)):
        if len(numbers):
            rows.append(numbers)
            places.append((np.cumsum(tokens) - tokens / 2) / tokens.sum())
    if not rows:
        return np.empty(0, dtype=np.int64)
    return np.concatenate(rows)[np.argsort(np.concatenate(places), kind="stable")]


def budget_for(share: float, other_shares: float, target_tokens: int) -> int:
    """Tokens that make ``share`` of a whole in which the target's tokens fill what no share claims."""
    return round(target_tokens * share / (1 - share - other_shares))
