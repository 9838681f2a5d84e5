"""The base as the reference of a training: the same model with its adapter off.

What it says of replay rows is computed for as many coming steps at once as fill a forward pass: a pass for the few rows of
one step would cost a model's fixed price again and again.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from retain.train.batches import Steps, collate, idle, split, to_device
from retain.train.loss import Head
from retain.train.rows import Row


@contextmanager
def adapter_off(model: Any) -> Iterator[None]:
    """Inside there is no adapter, no dropout and no gradient."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), model.disable_adapter():
            yield
    finally:
        model.train(training)


class References:
    """What the base computes at the supervised positions of this process's replay rows, step by step.

    Blocks of steps share their forward passes. They depend on the order of the rows alone, so that a resumed training
    computes the very same ones. A head that is not fused gives logits instead of hidden states, too many to be kept ahead.
    """

    def __init__(self, steps: Steps, head: Head, model: Any, device: str) -> None:
        self.steps, self.head, self.model, self.device = steps, head, model, device
        self.starts = steps.replay_blocks() if head.fused else list(range(len(steps)))
        self.held: dict[int, torch.Tensor] = {}

    def of(self, step: int) -> torch.Tensor:
        """[S, H] (or logits [S, V]) of the step's replay rows, in the order of its micro-batches."""
        if step not in self.held:
            at = bisect_right(self.starts, step)
            self.held = self._block(range(self.starts[at - 1], (*self.starts, len(self.steps))[at]))
        return self.held[step]

    def _block(self, numbers: range) -> dict[int, torch.Tensor]:
        own = [self.steps.replayed(number, self.steps.rank) for number in numbers]
        counts = [sum(row.supervised for row in rows) for rows in own]
        states = self._states([row for rows in own for row in rows], self._passes(numbers))
        return dict(zip(numbers, states.split(counts), strict=True))

    def _passes(self, numbers: range) -> int:
        """Forward passes that every process has to make for a block; 0 where each makes its own."""
        ranks = range(self.steps.world) if self.steps.even else ()
        rows = ([row for number in numbers for row in self.steps.replayed(number, rank)] for rank in ranks)
        return max((len(self._groups(each)) for each in rows), default=0)

    def _groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        return list(split(rows, self.steps.shape.micro_tokens, padded=self.steps.shape.padded))

    def _states(self, rows: Sequence[Row], passes: int) -> torch.Tensor:
        shape, groups = self.steps.shape, self._groups(rows)
        groups += [[idle(self.steps.rows)]] * (passes - len(groups))
        parts: list[torch.Tensor] = []
        with adapter_off(self.model):
            for group in groups:
                micro = to_device(collate(group, padded=shape.padded, pad=shape.pad), self.device)
                parts += self.head.hidden(self.model, micro).split([row.supervised for row in group])
        if not rows:
            return torch.empty(0)
        order = sorted(range(len(rows)), key=lambda i: -rows[i].tokens) if shape.padded else range(len(rows))
        return torch.cat([part for _, part in sorted(zip(order, parts, strict=False), key=lambda pair: pair[0])])
