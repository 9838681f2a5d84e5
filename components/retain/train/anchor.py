"""A quadratic pull back to the base: L2-SP (every weight alike) and EWC (by Fisher information).

penalty = λ/2 · Σ F·(θ − θ*)². For LoRA θ − θ* is the product ΔW = scale·B·A, so that the pull does not depend on how a
change is split between A and B; its gradient is added after the backward pass.
"""

from typing import Any

import torch

from retain.errors import ConfigError
from retain.train.batches import Shape, as_batches, to_device
from retain.train.loss import Head
from retain.train.rows import Row, total_weight

SHARE_OF_LOSS = 0.1  # strength auto: penalty / task loss at the end of the warmup


class Anchor:
    """``strength``: λ, or 0 until the warmup is over where it is chosen automatically."""

    def __init__(self, model: Any, fisher: dict[str, torch.Tensor]) -> None:
        self.fisher = fisher
        self.layers = lora_layers(model)
        named = [] if self.layers else [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.weights = [(name, p, p.detach().clone()) for name, p in named]

    @torch.no_grad()
    def pull(self, strength: float) -> float:
        """Add the penalty's gradient to the parameters' (strength 0: none) → the penalty at strength 1."""
        parts = [self._pull_layer(name, layer, strength) for name, layer in self.layers]
        return float(sum(parts + [self._pull_weight(*item, strength) for item in self.weights]))

    def _pull_weight(self, name: str, weight: Any, start: torch.Tensor, strength: float) -> torch.Tensor:
        away = weight.float() - start.float()
        slope = away * self.fisher[name] if self.fisher else away
        if strength and weight.grad is not None:
            weight.grad.add_(slope.to(weight.grad.dtype), alpha=strength)
        return (slope * away).sum() / 2

    def _pull_layer(self, name: str, layer: Any, strength: float) -> torch.Tensor:
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        scale = layer.scaling["default"]
        left, right = a.float(), b.float()
        if self.fisher:
            delta = right @ left * scale
            slope = delta * self.fisher[name]
            grad_a, grad_b, penalty = right.T @ slope * scale, slope @ left.T * scale, (slope * delta).sum() / 2
        else:  # Σ ΔW² = tr(BᵀB·AAᵀ): never the full matrix
            inner, outer = right.T @ right, left @ left.T
            grad_a, grad_b, penalty = (
                inner @ left * scale**2,
                right @ outer * scale**2,
                (inner * outer).sum() * scale**2 / 2,
            )
        if strength:
            for parameter, grad in ((a, grad_a), (b, grad_b)):
                if parameter.grad is not None:
                    parameter.grad.add_(grad.to(parameter.grad.dtype), alpha=strength)
        return penalty


def lora_layers(model: Any) -> list[tuple[str, Any]]:
    """(name of the base layer, LoRA layer) of a peft model."""
    return [
        (name, module) for name, module in model.named_modules() if hasattr(module, "lora_A") and len(getattr(module, "lora_A", {}))
    ]  # fmt: skip


def check(model: Any, kind: str) -> None:
    """Refuse an anchor where ΔW is not a plain sum of known terms."""
    layers = lora_layers(model)
    if hasattr(model, "peft_config") and not layers:
        raise ConfigError("this method has no weights near the base's to pull back", where="train.anchor.kind", got=kind, fix="use kl, or method lora, full or freeze")  # fmt: skip
    if any(layer.lora_variant for _, layer in layers):
        raise ConfigError("DoRA's change is not a plain product, an anchor cannot act on it", where="train.anchor.kind", got=kind, fix="switch lora.use_dora off")  # fmt: skip
    if hasattr(model, "_bottlenecks"):
        raise ConfigError("bottleneck adapters have no counterpart in the base to be pulled to", where="train.anchor.kind", got=kind, fix="use kl instead")  # fmt: skip


def fisher(model: Any, head: Head, rows: list[Row], shape: Shape, device: str) -> dict[str, torch.Tensor]:
    """Diagonal Fisher information E[g²], one row at a time (batch gradients understate it), divided by its mean.

    For LoRA of the adapted base weights [out, in], else of every trainable parameter; the adapter is still at nothing.
    """
    layers = lora_layers(model)
    watched = {name: layer.get_base_layer().weight for name, layer in layers} or {n: p for n, p in model.named_parameters() if p.requires_grad}  # fmt: skip
    states = {name: p.requires_grad for name, p in watched.items()}
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in watched.items()}
    for p in watched.values():
        p.requires_grad_(True)
    for row in rows:
        for micro in as_batches([row], shape):
            (_plain_loss(model, head, to_device(micro, device)) / total_weight([row])).backward()
        for name, p in watched.items():
            sums[name] += p.grad.float().square() if p.grad is not None else 0
        model.zero_grad()
    for name, p in watched.items():
        p.requires_grad_(states[name])
        p.grad = None
    mean = sum(float(s.sum()) for s in sums.values()) / sum(s.numel() for s in sums.values())
    return {name: s / mean for name, s in sums.items()}


def _plain_loss(model: Any, head: Head, micro: dict[str, Any]) -> torch.Tensor:
    """With the adapter off: its fast forward would not give the base's gradients."""
    if not hasattr(model, "disable_adapter"):
        return head.loss(model, micro)
    with model.disable_adapter():
        return head.loss(model, micro)
