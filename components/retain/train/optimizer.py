"""AdamW whose weights live in fp32 while the model computes in bf16.

A bf16 number has 8 significant bits: a step of 1e-5 on a weight of .05 would be rounded away. So the optimizer
steps on fp32 masters and rounds the result into the model (Micikevicius et al. 2017, arXiv 1710.03740).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class MasterAdamW(torch.optim.AdamW):
    """AdamW over fp32 copies of ``parameters``; a parameter that is fp32 already is its own master."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], **settings: Any) -> None:
        self.sources = list(parameters)
        masters = [p if p.dtype == torch.float32 else p.detach().float() for p in self.sources]
        super().__init__(masters, fused=True, **settings)

    @property
    def masters(self) -> list[torch.Tensor]:
        """In the order of the parameters, fp32."""
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        pairs = list(zip(self.sources, self.masters, strict=True))
        for source, master in pairs:
            if source is not master:
                master.grad = None if source.grad is None else source.grad.float()
        result = super().step(closure)
        self.publish()
        return result

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the model."""
        for source, master in zip(self.sources, self.masters, strict=True):
            if source is not master:
                source.copy_(master)
                master.grad = None

    @torch.no_grad()
    def put(self, weights: list[torch.Tensor]) -> None:
        """Set masters and model to ``weights``."""
        for master, weight in zip(self.masters, weights, strict=True):
            master.copy_(weight)
        self.publish()
