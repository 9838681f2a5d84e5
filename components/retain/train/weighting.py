"""What the base finds hard is learnt more softly, or not at all: weights from one forward pass of the base over the target rows.

FLOW (arXiv 2502.02797) weighs a row by exp(−loss / τ), so that rows the base already half knows lead and the rest pulls
less; τ is the median loss. STM (arXiv 2501.14315) leaves out the single tokens that surprise the base. Replay and
safety rows stay as they are: they are there to be kept.
"""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from retain.artifacts import IGNORED_LABEL
from retain.errors import DataRefused
from retain.progress import Progress
from retain.train.batches import Micro, Shape, collate, split, to_device
from retain.train.loss import Head
from retain.train.method_config import WeightingConfig
from retain.train.rows import Row
from retain.train.sequences import token_losses


def weigh(knobs: WeightingConfig, model: Any, rows: list[Row], shape: Shape) -> list[Row]:
    """``rows`` in their order with other weights (flow) or fewer supervised tokens (stm; a row left without one is dropped)."""
    target = [row for row in rows if row.part == "target"]
    losses = base_losses(model, target, shape)
    changed = iter(_flow(target, losses, knobs.temperature) if knobs.kind == "flow" else _stm(target, losses, knobs.max_token_nats))  # fmt: skip
    kept = [next(changed) if row.part == "target" else row for row in rows]
    if not any(row.supervised for row in kept if row.part == "target"):
        raise DataRefused(
            "every token of every row surprises the base more than the limit: nothing is left to learn", where="train.weighting.max_token_nats",
            got=knobs.max_token_nats, expected=f"more than {min(float(one.min()) for one in losses):.2f}", fix="raise it, or use kind: flow",
        )  # fmt: skip
    return [row for row in kept if row.supervised]


@torch.no_grad()
def base_losses(model: Any, rows: list[Row], shape: Shape) -> list[np.ndarray]:
    """−log p of every supervised token of each row under the base (the model with its adapter off), nats."""
    head, training = Head(model.get_base_model() if hasattr(model, "get_base_model") else model), model.training
    found: dict[int, np.ndarray] = {}
    model.eval()
    with Progress("base losses", total=len(rows), unit="rows") as progress:
        for group in split(rows, shape.micro_tokens, padded=shape.padded):
            losses = _losses(head, model, to_device(collate(group, padded=shape.padded, pad=shape.pad), model.device))
            ends = np.cumsum([row.supervised for row in group])[:-1]
            found |= zip(map(id, group), np.split(losses, ends), strict=True)
            progress.advance(len(group))
    model.train(training)
    head.restore()
    return [found[id(row)] for row in rows]


def _losses(head: Head, model: Any, micro: Micro) -> np.ndarray:
    with model.disable_adapter() if hasattr(model, "disable_adapter") else nullcontext():
        losses: np.ndarray = token_losses(head, head.hidden(model, micro), micro["targets"]).cpu().numpy()
    return losses


def _flow(rows: list[Row], losses: list[np.ndarray], temperature: float | str) -> list[Row]:
    means = np.array([one.mean() for one in losses])
    scale = float(np.median(means)) if temperature == "auto" else float(temperature)
    return [
        row._replace(weight=row.weight * float(np.exp(-mean / scale))) for row, mean in zip(rows, means, strict=True)
    ]


def _stm(rows: list[Row], losses: list[np.ndarray], most: float) -> list[Row]:
    return [_masked(row, one > most) for row, one in zip(rows, losses, strict=True)]


def _masked(row: Row, out: np.ndarray) -> Row:
    labels = row.labels.copy()
    supervised = np.flatnonzero(row.predicted != IGNORED_LABEL) + (0 if row.pair else 1)
    labels[supervised[out]] = IGNORED_LABEL
    return row._replace(labels=labels)
