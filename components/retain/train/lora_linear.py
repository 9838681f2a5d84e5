"""A LoRA layer's forward and backward in the fewest passes over memory.

peft computes base(x) + B(A(dropout(x)))·scale in five kernels, each with a buffer of its own; here the update is added
into the base's output in place, the two low-rank products of the backward pass likewise, and the dropout mask costs one
random byte an entry. Same mathematics, tested against peft's own forward.
"""

from typing import Any

import torch
from torch.nn.functional import linear

STEPS_OF_DROPOUT = 256  # the drop rate is rounded to n / 256


class _LoraLinear(torch.autograd.Function):
    """x [T, in], weight [out, in], a [r, in], b [out, r] → x·Wᵀ + bias + scale · drop(x)·Aᵀ·Bᵀ. W and bias are frozen."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scale: float, dropout: float) -> torch.Tensor:  # fmt: skip
        kept = _mask(x, dropout) if dropout else None
        seen = x if kept is None else x * kept
        low = linear(seen, a)
        out = linear(x, weight, bias)
        out.addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(seen, low, weight, a, b, kept)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        grad, (seen, low, weight, a, b, kept) = grad_outputs[0], ctx.saved_tensors
        narrow = (grad @ b).mul_(ctx.scale)
        grad_a, grad_b = narrow.T @ seen, (grad.T @ low).mul_(ctx.scale)
        if not ctx.needs_input_grad[0]:
            return None, None, None, grad_a, grad_b, None, None
        grad_x = grad @ weight
        if kept is None:
            grad_x.addmm_(narrow, a)
        else:
            grad_x.addcmul_(narrow @ a, kept)
        return grad_x, None, None, grad_a, grad_b, None, None


def _mask(x: torch.Tensor, dropout: float) -> torch.Tensor:
    """1 / (share kept) with that share's chance, else 0; eight entries from one 64-bit number."""
    dropped = round(dropout * STEPS_OF_DROPOUT)
    words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return kept.to(x.dtype).mul_(STEPS_OF_DROPOUT / (STEPS_OF_DROPOUT - dropped))


def quicken(model: Any) -> int:
    """Give every plain LoRA layer of a peft model the fast forward; their number. Variants and quantised bases keep peft's."""
    from peft.tuners.lora.layer import Linear

    layers = [m for m in model.modules() if type(m) is Linear and _is_plain(m)]
    for layer in layers:
        layer.forward = _forward.__get__(layer)
    return len(layers)


def _is_plain(layer: Any) -> bool:
    base, names = layer.get_base_layer(), list(layer.lora_A)
    return (
        type(base) is torch.nn.Linear and len(names) == 1 and not layer.lora_variant and layer.lora_A[names[0]].weight.dtype == base.weight.dtype
        and not layer.lora_bias[names[0]] and not base.weight.requires_grad
    )  # fmt: skip


def _forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    base = self.base_layer
    if self.disable_adapters or self.merged or not self.active_adapters:
        return linear(x, base.weight, base.bias)
    name = self.active_adapters[0]
    dropout = getattr(self.lora_dropout[name], "p", 0.0) if self.training else 0.0
    out: torch.Tensor = _LoraLinear.apply(
        x.reshape(-1, x.shape[-1]), base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name], dropout
    )  # fmt: skip
    return out.view(*x.shape[:-1], out.shape[-1])
