"""AdamW whose weights live in fp32 while the model computes in bf16.

A bf16 number has 8 significant bits: a step of 1e-5 on a weight of .05 would be rounded away. So the optimizer
steps on fp32 masters and rounds the result into the model (Micikevicius et al. 2017, arXiv 1710.03740). The two moments
are fp32, or 8-bit in blocks of their own scale (Dettmers et al. 2021, arXiv 2110.02861), or paged: in memory that moves
to the host where the GPU has none left (bitsandbytes).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch

from retain.train.sharding import like

BITSANDBYTES = {"adamw_8bit": "AdamW8bit", "paged_adamw": "PagedAdamW32bit", "paged_adamw_8bit": "PagedAdamW8bit"}


class Masters:
    """Laid over an optimizer class: it steps on fp32 copies of ``parameters``; one that is fp32 already is its own master."""

    param_groups: list[dict[str, Any]]
    state: Any
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, parameters: Iterable[torch.nn.Parameter], **settings: Any) -> None:
        self.sources = list(parameters)
        masters = [p if p.dtype == torch.float32 else p.detach().float() for p in self.sources]
        super().__init__(masters, **self.settings, **settings)  # type: ignore[call-arg]

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
                source.grad = None  # the step needs its room
        result = super().step(closure)  # type: ignore[misc]
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
            master.copy_(like(weight, master))
        self.publish()

    def moments(self, number: int) -> dict[str, torch.Tensor]:
        """State of master ``number`` by name, counters as tensors too; empty before its first step."""
        return {name: torch.as_tensor(value) for name, value in self.state[self.masters[number]].items()}

    def set_moments(self, number: int, values: Mapping[str, torch.Tensor]) -> None:
        """The opposite of `moments`."""
        master = self.masters[number]
        self.state[master] = {name: like(v, master) if v.shape == master.shape else v.to(master.device) for name, v in values.items()}  # fmt: skip


class MasterAdamW(Masters, torch.optim.AdamW):
    """torch's AdamW in one fused kernel."""

    settings: ClassVar[dict[str, Any]] = {"fused": True}


class _SmallMoments(Masters):
    """What bitsandbytes does otherwise: it makes its buffers itself (some of them paged), and counts in whole numbers."""

    def set_moments(self, number: int, values: Mapping[str, torch.Tensor]) -> None:
        master = self.masters[number]
        if not values:
            return
        self.init_state(self.param_groups[0], master, 0, number)  # type: ignore[attr-defined]
        for name, value in values.items():
            if isinstance(self.state[master][name], torch.Tensor):
                self.state[master][name].copy_(value)
            else:
                self.state[master][name] = int(value)


def make(kind: str, parameters: Iterable[torch.nn.Parameter], **settings: Any) -> Masters:
    """The optimizer of train.optimizer; ``settings``: lr, weight_decay."""
    if kind == "adamw":
        return MasterAdamW(parameters, **settings)
    import bitsandbytes

    theirs = getattr(bitsandbytes.optim, BITSANDBYTES[kind])
    made: Masters = type(f"Master{theirs.__name__}", (_SmallMoments, theirs), {})(parameters, **settings)
    return made
