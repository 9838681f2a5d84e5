"""The engine over DeepSpeed's ZeRO-2: who keeps the masters is another, the loop, the batches and the files are the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from retain.train.config import rate
from retain.train.engine import Engine
from retain.train.zero import SharedMoments


class ZeroEngine(Engine):
    """DeepSpeed clips and steps inside the backward pass of a step's last micro-batch."""

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:
            self.trainable = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
            weights = [p for _, p in self.trainable]
            self.optimizer = torch.optim.AdamW(weights, lr=rate(self.config), weight_decay=self.config.weight_decay)
        return self.optimizer

    def masters(self) -> Any:
        return SharedMoments([p for _, p in self.trainable], self.optimizer.optimizer)

    @contextmanager
    def _gradients_kept(self, model: Any, last: bool) -> Iterator[None]:
        self.accelerator.gradient_state._set_sync_gradients(last)
        yield

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """The loop would look for DeepSpeed's own (pickled) checkpoint; ours is taken up behind it."""
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared
