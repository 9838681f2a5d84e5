"""Log-probabilities of whole answers, differentiable, without ever holding all logits.

The forward pass keeps only one number a token; the backward pass computes the logits again, chunk by chunk, as
`retain.train.loss` does for the cross-entropy.
"""

from typing import Any

import torch

from retain.train.loss import Head, chunk_loss, chunk_rows


class _TokenLosses(torch.autograd.Function):
    """−log softmax(hidden·Wᵀ + b)[target] of every token, [S]."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor) -> torch.Tensor:  # fmt: skip
        ctx.save_for_backward(hidden, weight, bias, targets)
        size = chunk_rows(weight)
        losses = [
            torch.nn.functional.cross_entropy(torch.nn.functional.linear(h, weight, bias).float(), t, reduction="none")
            for h, t in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        hidden, weight, bias, targets = ctx.saved_tensors
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], bias is not None and ctx.needs_input_grad[2])
        grads: list[torch.Tensor | None] = [
            torch.zeros_like(x, dtype=torch.float32 if x is weight else None) if need else None
            for x, need in zip((hidden, weight, bias), needs, strict=True)
        ]
        size = chunk_rows(weight)
        for at in range(0, len(targets), size):
            part = slice(at, at + size)
            chunk_loss(hidden[part], weight, bias, targets[part], grad_outputs[0][part], grads, at)
        return grads[0], None if grads[1] is None else grads[1].to(weight.dtype), grads[2], None


def token_losses(head: Head, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """hidden as `Head.hidden` gives it, targets [S] → −log p of each target, nats, fp32 [S]."""
    if head.fused:
        losses: torch.Tensor = _TokenLosses.apply(hidden, head.module.weight, head.module.bias, targets)
        return losses
    return torch.nn.functional.cross_entropy(hidden.float(), targets, reduction="none")


def answer_log_probs(head: Head, model: Any, micro: dict[str, Any], sides: int) -> torch.Tensor:
    """log p of every answer of a judged micro-batch (the sum over its supervised tokens), nats, [sides]."""
    losses = token_losses(head, head.hidden(model, micro), micro["targets"])
    return -torch.zeros(sides, dtype=losses.dtype, device=losses.device).index_add(0, micro["sequence"], losses)
