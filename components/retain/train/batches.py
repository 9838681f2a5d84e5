"""From tokenised rows to the batches of every step: a pure function of rows, seed and sizes.

One item of `Steps` is one optimizer step: a list of micro-batches. Packed rows lie side by side in one line of tokens
without padding; padded rows of like length lie under each other. Either way the loss is a weighted mean over the
supervised tokens of the whole step, over all devices, so that the split into micro-batches changes nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from retain import artifacts
from retain.errors import DataRefused

if TYPE_CHECKING:
    import torch

Micro = dict[str, Any]


class Row(NamedTuple):
    """One tokenised row; ``labels[i]`` is ``input_ids[i]`` where that token is supervised, else -100.

    ``pair``: for an encoder-decoder ``input_ids`` is the source and ``labels`` the target, each of its own length.
    """

    id: str
    part: str
    weight: float
    input_ids: np.ndarray
    labels: np.ndarray
    pair: bool = False

    @property
    def predicted(self) -> np.ndarray:
        """Labels by the position that predicts them: a causal model's first token has nothing before it."""
        return self.labels if self.pair else self.labels[1:]

    @property
    def supervised(self) -> int:
        """Tokens that carry loss."""
        return int((self.predicted != artifacts.IGNORED_LABEL).sum())

    @property
    def tokens(self) -> int:
        return len(self.input_ids) + (len(self.labels) if self.pair else 0)


@dataclass(frozen=True)
class Mixture:
    """The rows of a mixture by their use, and what its info.json says."""

    train: list[Row]
    target_validation: list[Row]
    retention: list[Row]
    info: dict[str, Any]


def read_mixture(folder: Path, *, longest: int, pairs: bool = False) -> Mixture:
    """Rows of a ``mixture/`` (memory: all token ids); a row longer than ``longest`` tokens or without a single supervised token is refused."""
    info = artifacts.read_info(folder, "retain.mixture/1")
    kinds: dict[tuple[str, str], list[Row]] = {}
    for table in artifacts.read_tables(folder):
        columns = {name: table.column(name).to_pylist() for name in ("id", "part", "split", "weight")}
        tokens = [table.column(name).to_numpy(zero_copy_only=False) for name in ("input_ids", "labels")]
        for i, ids, labels in zip(range(len(table)), *tokens, strict=True):
            row = Row(columns["id"][i], columns["part"][i], columns["weight"][i], ids, labels, pairs)
            _check(row, longest, folder)
            kinds.setdefault((columns["split"][i], columns["part"][i]), []).append(row)
    train = [row for (split, _), rows in kinds.items() if split == "train" for row in rows]
    if not train:
        raise DataRefused("there is no row to train on", where=str(folder), expected="rows with split train")
    return Mixture(train, kinds.get(("validation", "target"), []), kinds.get(("validation", "replay"), []), info)


def _check(row: Row, longest: int, folder: Path) -> None:
    if not row.pair and len(row.labels) != len(row.input_ids):
        raise DataRefused(
            "a row was rendered for an encoder-decoder, and this model is not one", where=f"{folder}, row {row.id}",
            got=f"{len(row.input_ids)} tokens and {len(row.labels)} labels", fix="render the rows again for this model",
        )  # fmt: skip
    if len(row.input_ids) > longest:
        raise DataRefused(
            "a row is longer than the model can read", where=f"{folder}, row {row.id}", got=f"{len(row.input_ids)} tokens",
            expected=f"at most {longest}", fix="lower template.max_seq_length",
        )  # fmt: skip
    if row.supervised == 0:
        raise DataRefused(
            "a row has no supervised token: it would train nothing",
            where=f"{folder}, row {row.id}",
            fix="check the template's mask, or drop the row",
        )


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


def total_weight(rows: Sequence[Row]) -> float:
    """Weight of all supervised tokens: what a step's loss is divided by."""
    return sum(row.weight * row.supervised for row in rows)


def collate(rows: Sequence[Row], *, padded: bool, pad: int) -> Micro:
    """Tensors of one forward pass.

    ``input_ids`` [1, T] packed or [B, L] padded on the right; ``keep`` [S] positions (flattened) whose next token is
    supervised, ``targets`` [S] those tokens, ``weights`` [S] their rows' weights; packed also ``position_ids`` [1, T] and
    ``lengths``. Causal models need no mask for padding on the right: no real token can see it.
    """
    import torch

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

    ``apart``: replay rows go into micro-batches of their own (the divergence from the base is taken on them alone).
    """

    def __init__(self, rows: list[Row], order: list[np.ndarray], shape: Shape, *, rank: int = 0, world: int = 1, apart: bool = False) -> None:  # fmt: skip
        self.rows, self.order, self.shape, self.rank, self.world, self.apart = rows, order, shape, rank, world, apart

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> Micro:
        """``micros``: the micro-batches of this process; ``total_weight`` and ``replay_weight`` of the step over all processes.

        Every process makes a forward pass in every step: one without a row of its own takes the first at weight 0.
        """
        if step >= len(self):
            raise IndexError(step)
        rows = [self.rows[i] for i in self.order[step]]
        mine = rows[self.rank :: self.world] or [rows[0]._replace(weight=0.0)]
        replay = [row for row in mine if self.apart and row.part == "replay"]
        rest = [row for row in mine if not (self.apart and row.part == "replay")]
        micros = [
            collate(group, padded=self.shape.padded, pad=self.shape.pad) | {"replay": part is replay}
            for part in (rest, replay)
            for group in split(part, self.shape.micro_tokens, padded=self.shape.padded)
        ]
        replayed = total_weight([row for row in rows if row.part == "replay"])
        return {"micros": micros, "total_weight": total_weight(rows), "replay_weight": replayed}


def as_batches(rows: list[Row], shape: Shape) -> Iterator[Micro]:
    """``rows`` once, in order, for an evaluation."""
    for group in split(rows, shape.micro_tokens, padded=shape.padded):
        yield collate(group, padded=shape.padded, pad=shape.pad)


def to_device(micro: Micro, device: "torch.device | str") -> Micro:
    return {key: value.to(device) if hasattr(value, "to") else value for key, value in micro.items()}
