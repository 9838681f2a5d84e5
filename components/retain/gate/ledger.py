"""The ledger of a scheduled retraining: what the generations lost against the ORIGINAL base, and what may still be lost."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from retain.errors import IntegrityError


@dataclass(frozen=True)
class Entry:
    """One published generation. Points; upper: what the drop may at worst be, at the verdict's alpha."""

    generation: int
    candidate_digest: str
    base_digest: str
    verdict: str
    drop_points: float
    low: float
    high: float
    upper_points: float
    budget_points: float


@dataclass(frozen=True)
class Balance:
    """After the last entry. left: budget minus the drop seen; worst_step: the largest loss between two generations."""

    generations: int
    spent_points: float
    left_points: float
    worst_step_points: float
    exceeded: bool


def entry(verdict: Mapping[str, Any], generation: int) -> Entry:
    """The line of one verdict.json: the comparison with the original base, at the cumulative budget.

    Without a model in service the comparison with the base is the only one, and its budget the same multiple of M.
    """
    base = next(b for b in verdict["baselines"] if b["role"] == "base")
    macro = verdict["cumulative"]["macro"] if verdict["cumulative"] else verdict["macro"]
    budget = verdict["policy"]["cumulative_factor"] * verdict["policy"]["macro_margin_points"]
    return Entry(
        generation, verdict["candidate_digest"], base["digest"], verdict["verdict"], macro["drop_points"], macro["low"],
        macro["high"], macro["upper_points"], budget,
    )  # fmt: skip


def append(entries: Iterable[Entry], new: Entry) -> tuple[Entry, ...]:
    """The ledger with one generation more; IntegrityError for another original base or a generation out of order."""
    old = tuple(entries)
    if old and old[-1].base_digest != new.base_digest:
        raise IntegrityError("a ledger has one original base", got=new.base_digest, expected=old[-1].base_digest, fix="start a new ledger with the new base (a new registered model)")  # fmt: skip
    if old and new.generation <= old[-1].generation:
        raise IntegrityError("this generation is already in the ledger", got=new.generation, expected=f"{old[-1].generation + 1} or later")  # fmt: skip
    return (*old, new)


def balance(entries: Sequence[Entry]) -> Balance:
    """What is spent and left; exceeded where the budget is no longer surely kept (``upper`` at or above it)."""
    if not entries:
        return Balance(0, 0.0, 0.0, 0.0, False)
    drops = [0.0, *(e.drop_points for e in entries)]
    last = entries[-1]
    worst = max(b - a for a, b in itertools.pairwise(drops))
    return Balance(len(entries), last.drop_points, last.budget_points - last.drop_points, worst, last.upper_points >= last.budget_points)  # fmt: skip


def as_rows(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Plain rows for a registry's tag or file."""
    return [asdict(e) for e in entries]


def from_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[Entry, ...]:
    return tuple(Entry(**row) for row in rows)
