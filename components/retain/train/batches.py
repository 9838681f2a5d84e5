"""From tokenised rows to the batches of every step: a pure function of rows, seed and sizes.

One item of `Steps` is one optimizer step: a list of micro-batches. Packed rows lie side by side in one line of tokens
without padding; padded rows of like length lie under each other. Either way the loss is a weighted mean over the
supervised tokens of the whole step, over all devices, so that the split into micro-batches changes nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from retain import artifacts
from retain.train.rows import Row, crossed, judged_weight, total_weight

if TYPE_CHECKING:
    import torch

Micro = dict[str, Any]


def plan(count: int, *, batch_rows: int, epochs: float, max_steps: int, seed: int) -> list[np.ndarray]:
    """Row numbers of every optimizer step. Each epoch is a new seeded order; its batches differ by at most one row in size."""
    per_epoch = max(1, round(count / batch_rows))
    total = max_steps or max(1, round(per_epoch * epochs))
    steps: list[np.ndarray] = []
    for epoch in range(-(-total // per_epoch)):
        order = np.random.default_rng([seed, epoch]).permutation(count)
        steps.extend(np.array_split(order, per_epoch))
    return steps[:total]


def split(rows: Sequence[Row], most_tokens: int, *, padded: bool) -> Iterator[list[Row]]:
    """Groups of rows that hold at most ``most_tokens`` each (padding counted), a longer row alone."""
    group: list[Row] = []
    for row in sorted(rows, key=lambda row: -row.tokens) if padded else rows:
        held = len(group) * group[0].tokens if padded and group else sum(r.tokens for r in group)
        extra = group[0].tokens if padded and group else row.tokens
        if group and held + extra > most_tokens:
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def collate(rows: Sequence[Row], *, padded: bool, pad: int) -> Micro:
    """Tensors of one forward pass.

    ``input_ids`` [1, T] packed or [B, L] padded on the right; ``keep`` [S] positions (flattened) whose next token is
    supervised, ``targets`` [S] those tokens, ``weights`` [S] their rows' weights; packed also ``position_ids`` [1, T] and
    ``lengths``. Causal models need no mask for padding on the right: no real token can see it. Judged rows: all chosen
    sides, then all rejected ones, and what `_judgement` adds.
    """
    import torch

    if rows[0].judged:
        sides = [
            row._replace(rejected=None, desirable=None) for row in (*rows, *(r.rejected for r in rows if r.rejected))
        ]
        return collate(sides, padded=padded, pad=pad) | _judgement(rows, sides)
    lengths = [len(row.input_ids) for row in rows]
    width = max(len(row.labels) for row in rows) if padded else 0
    starts = np.arange(len(rows)) * width if padded else np.concatenate([[0], np.cumsum(lengths)[:-1]])
    where = [np.flatnonzero(row.predicted != artifacts.IGNORED_LABEL) for row in rows]
    micro: Micro = {
        "keep": torch.from_numpy(np.concatenate([at + start for at, start in zip(where, starts, strict=True)])),
        "targets": torch.from_numpy(
            np.concatenate([row.predicted[at] for row, at in zip(rows, where, strict=True)]).astype(np.int64)
        ),
        "weights": torch.from_numpy(
            np.concatenate([np.full(len(at), row.weight, np.float32) for row, at in zip(rows, where, strict=True)])
        ),
        "tokens": sum(row.tokens for row in rows),
    }
    if rows[0].pair:
        return micro | _pairs(rows, width, pad)
    return micro | (_padded(rows, width, pad) if padded else _packed(rows, lengths))


def _judgement(rows: Sequence[Row], sides: Sequence[Row]) -> Micro:
    """``sequence`` [S]: the side each supervised position belongs to; ``row_weights`` [N]; ``desirable`` [N] of kto rows."""
    import torch

    counts = [side.supervised for side in sides]
    judged: Micro = {
        "sequence": torch.from_numpy(np.repeat(np.arange(len(sides)), counts)),
        "row_weights": torch.tensor([row.weight for row in rows]),
    }
    if rows[0].desirable is not None:
        judged["desirable"] = torch.tensor([bool(row.desirable) for row in rows])
    return judged


def _packed(rows: Sequence[Row], lengths: list[int]) -> Micro:
    import torch

    ids = torch.from_numpy(np.concatenate([row.input_ids for row in rows]).astype(np.int64))[None]
    positions = torch.from_numpy(np.concatenate([np.arange(n) for n in lengths]))[None]
    return {"input_ids": ids, "position_ids": positions, "lengths": lengths}


def _padded(rows: Sequence[Row], width: int, pad: int) -> Micro:
    return {"input_ids": _stacked([row.input_ids for row in rows], width, pad), "width": width}


def _pairs(rows: Sequence[Row], width: int, pad: int) -> Micro:
    """Sources with their mask (an encoder looks both ways), and targets as labels, which the model shifts itself."""
    import torch

    lengths = torch.tensor([len(row.input_ids) for row in rows])
    sources = _stacked([row.input_ids for row in rows], int(lengths.max()), pad)
    mask = (torch.arange(sources.shape[1])[None] < lengths[:, None]).long()
    return {"input_ids": sources, "attention_mask": mask, "labels": _stacked([row.labels for row in rows], width, artifacts.IGNORED_LABEL), "width": width}  # fmt: skip


def _stacked(lines: Sequence[np.ndarray], width: int, fill: int) -> "torch.Tensor":
    import torch

    table = np.full((len(lines), width), fill, dtype=np.int64)
    for i, line in enumerate(lines):
        table[i, : len(line)] = line
    return torch.from_numpy(table)


@dataclass(frozen=True)
class Shape:
    """How rows become tensors: most tokens in one forward pass, padded or packed, and the token that fills."""

    micro_tokens: int
    padded: bool
    pad: int = 0


class Steps:
    """A sequence of optimizer steps for a data loader; of each step this process takes its own share of the rows.

    Rows that judge answers go into micro-batches of their own. ``crossed``: of a step's kto rows also each prompt with
    another row's answer. ``even``: all processes make the same forward passes (a split model computes on all of them at once).
    """

    def __init__(self, rows: list[Row], order: list[np.ndarray], shape: Shape, *, rank: int = 0, world: int = 1, crossed: bool = False, even: bool = False) -> None:  # fmt: skip
        self.rows, self.order, self.shape, self.rank, self.world = rows, order, shape, rank, world
        self.crossed, self.even = crossed, even

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> Micro:
        """``micros``: the micro-batches of this process; ``total_weight``, ``judged_weight`` and ``replay_weight`` of the step over all processes.

        Every process makes a forward pass in every step: one without a row of its own takes the first at weight 0. A
        micro-batch says which of its supervised positions are those of ``replay`` rows.
        """
        if step >= len(self):
            raise IndexError(step)
        rows = [self.rows[i] for i in self.order[step]]
        micros = [
            collate(group, padded=self.shape.padded, pad=self.shape.pad) | {"replay": _replay_positions(group)}
            for found in self._groups(step, self.rank).values()
            for group in found
        ]
        return {
            "step": step, "micros": micros, "total_weight": total_weight(rows), "judged_weight": judged_weight(rows),
            "replay_weight": total_weight([row for row in rows if _is_replay(row)]),
            "crossed": list(as_batches(crossed(rows)[self.rank :: self.world], self.shape)) if self.crossed else [],
        }  # fmt: skip

    def replayed(self, step: int, rank: int) -> list[Row]:
        """A process's plain replay rows of one step, in the order of its micro-batches."""
        return [row for group in self._groups(step, rank)["plain"] for row in group if _is_replay(row)]

    def replay_blocks(self) -> list[int]:
        """First steps of blocks whose replay rows, of all processes, fit into one forward pass (or are those of one step)."""
        starts, held = [0], 0
        for step, order in enumerate(self.order):
            tokens = sum(self.rows[i].tokens for i in order if _is_replay(self.rows[i]))
            if held and held + tokens > self.shape.micro_tokens:
                starts.append(step)
                held = 0
            held += tokens
        return starts

    def _groups(self, step: int, rank: int) -> dict[str, list[list[Row]]]:
        """Rows of each forward pass of one process, by kind; with ``even`` as many passes as the process with most of them."""
        rows = [self.rows[i] for i in self.order[step]]
        own = self._own(rows, rank)
        if self.even:
            others = [self._own(rows, other) for other in range(self.world)]
            for kind, groups in own.items():
                groups += [[idle(rows)]] * (max(len(other[kind]) for other in others) - len(groups))
        return own

    def _own(self, rows: list[Row], rank: int) -> dict[str, list[list[Row]]]:
        kinds: dict[str, list[Row]] = {"plain": [], "judged": []}
        for row in rows[rank :: self.world] or [idle(rows)]:
            kinds["judged" if row.judged else "plain"].append(row)
        return {kind: list(split(part, self.shape.micro_tokens, padded=self.shape.padded)) for kind, part in kinds.items()}  # fmt: skip


def _is_replay(row: Row) -> bool:
    return row.part == "replay" and not row.judged


def _replay_positions(rows: Sequence[Row]) -> "torch.Tensor":
    """Which of the supervised positions of a micro-batch belong to replay rows."""
    import torch

    return torch.from_numpy(np.flatnonzero(np.repeat([_is_replay(row) for row in rows], [row.supervised for row in rows])))  # fmt: skip


def idle(rows: Sequence[Row]) -> Row:
    """A row that trains nothing, for a process that has to take part in a forward pass."""
    return rows[0]._replace(weight=0.0)


def as_batches(rows: list[Row], shape: Shape) -> Iterator[Micro]:
    """``rows`` once, in order, for an evaluation."""
    for group in split(rows, shape.micro_tokens, padded=shape.padded):
        yield collate(group, padded=shape.padded, pad=shape.pad)


def to_device(micro: Micro, device: "torch.device | str") -> Micro:
    return {key: value.to(device) if hasattr(value, "to") else value for key, value in micro.items()}
