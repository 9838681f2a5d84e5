"""Cross-entropy on the supervised tokens only, in chunks, without ever holding all logits.

Most tokens of a chat are not supervised and a vocabulary has 49 000 to 250 000 entries: the head and the softmax run on
the supervised positions alone, a few hundred at a time, and the gradient is taken in the same pass (as in Liger
Kernel, arXiv 2410.10989), so that no logits are kept for the backward pass.
"""

from typing import Any

import torch

from retain.train.attention import PACKED, VARLEN

MODEL_INPUTS = ("input_ids", "position_ids", "lengths", "attention_mask", "labels")
# Logits at a time: 32 MB in fp32, about the last-level cache of a CPU; on a GPU each chunk reads the whole head, so fewer of them.
CHUNK_LOGITS = {"cpu": 8_000_000, "cuda": 32_000_000}


def chunk_rows(head: torch.Tensor) -> int:
    """Positions at a time for a head [V, H]."""
    return max(1, CHUNK_LOGITS["cuda" if head.device.type == "cuda" else "cpu"] // head.shape[0])


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Σ weights · −log softmax(hidden·Wᵀ + b)[targets], with the gradients computed on the way."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:  # fmt: skip
        needs = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], bias is not None and ctx.needs_input_grad[2]]
        grads: list[torch.Tensor | None] = [
            torch.zeros_like(x, dtype=torch.float32 if x is weight else None) if need and x is not None else None
            for x, need in zip((hidden, weight, bias), needs, strict=True)
        ]
        total = hidden.new_zeros((), dtype=torch.float32)
        size = chunk_rows(weight)
        for at in range(0, len(targets), size):
            total += chunk_loss(
                hidden[at : at + size], weight, bias, targets[at : at + size], weights[at : at + size], grads, at
            )
        ctx.grads, ctx.dtype = grads, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        hidden, weight, bias = (None if g is None else g * grad_outputs[0].to(g.dtype) for g in ctx.grads)
        return hidden, None if weight is None else weight.to(ctx.dtype), bias, None, None


def chunk_loss(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, weights: torch.Tensor, grads: list[torch.Tensor | None], at: int) -> torch.Tensor:  # fmt: skip
    """One chunk's loss; the buffer of logits turns into exponentials and then into the slope in place."""
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    gold = logits.gather(1, targets[:, None])
    top = logits.amax(dim=-1, keepdim=True)
    exponentials = logits.sub_(top).exp_()
    total = exponentials.sum(dim=-1, keepdim=True)
    loss = ((total.log() + top - gold)[:, 0] * weights).sum()
    if any(grad is not None for grad in grads):
        slope = exponentials.mul_(weights[:, None] / total)
        slope.scatter_add_(1, targets[:, None], -weights[:, None])
        slope = slope.to(hidden.dtype)
        if grads[0] is not None:
            grads[0][at : at + len(slope)] = slope @ weight
        if grads[1] is not None:
            grads[1] += (slope.T @ hidden).float()
        if grads[2] is not None:
            grads[2] += slope.sum(dim=0)
    return loss


class Head:
    """The output layer of a causal model, taken out of its forward: the model then returns hidden states as its ``logits``.

    ``fused`` is False where the logits are not simply hidden·Wᵀ + b (a soft cap, a scale, an adapter on the head): then
    the model computes them itself, on the supervised positions.
    """

    def __init__(self, model: Any) -> None:
        packed = model.config._attn_implementation in (PACKED, VARLEN)
        self.extra: dict[str, Any] = {"lengths": [1]} if packed else {}
        self.module = model.get_output_embeddings()
        self.fused = isinstance(self.module, torch.nn.Linear) and self._is_plain(model)
        if self.fused:
            self.module.forward = _identity

    def _is_plain(self, model: Any) -> bool:
        """Compare the model's logits of one token with the head's own."""
        if model.config.is_encoder_decoder:
            return False
        ids = torch.zeros((1, 1), dtype=torch.long, device=self.module.weight.device)
        seen: list[torch.Tensor] = []
        handle = self.module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        with torch.no_grad():
            logits = model(**({"input_ids": ids} | self.extra), use_cache=False).logits
        handle.remove()
        return len(seen) == 1 and torch.equal(seen[0], logits)

    def restore(self) -> None:
        """Give the model its head back (to save or to generate)."""
        if self.fused:
            self.module.__dict__.pop("forward", None)

    def hidden(self, model: Any, micro: dict[str, Any]) -> torch.Tensor:
        """[S, H] final states (fused) or [S, V] logits at the supervised positions."""
        inputs: dict[str, Any] = {key: micro[key] for key in MODEL_INPUTS if key in micro}
        if "lengths" in micro:
            inputs["logits_to_keep"] = micro["keep"]
        out = model(**inputs, use_cache=False).logits
        if "lengths" in micro:
            return out[0]
        width = micro["width"]
        return out[:, -width:].reshape(-1, out.shape[-1])[micro["keep"]]  # soft prompts put their own positions before

    def loss(self, model: Any, micro: dict[str, Any]) -> torch.Tensor:
        """Σ weight · −log p(token) over the supervised tokens of one micro-batch, nats."""
        return self.cross_entropy(self.hidden(model, micro), micro["targets"], micro["weights"])

    def cross_entropy(self, hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if self.fused:
            result: torch.Tensor = _ChunkedCrossEntropy.apply(
                hidden, self.module.weight, self.module.bias, targets, weights
            )
            return result
        losses = torch.nn.functional.cross_entropy(hidden.float(), targets, reduction="none")
        return (losses * weights).sum()

    def divergence(self, base: torch.Tensor, tuned: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Σ weight · KL(base ‖ tuned) over the vocabulary, nats; both [S, H] (fused) or logits [S, V], gradient for ``tuned`` only."""
        total = tuned.new_zeros((), dtype=torch.float32)
        for b, t, w in zip(*(x.split(self.rows_at_a_time()) for x in (base, tuned, weights)), strict=True):
            with torch.no_grad():
                reference = self.logits(b).log_softmax(dim=-1)
            log_tuned = self.logits(t).log_softmax(dim=-1)
            total = (
                total
                + (
                    torch.nn.functional.kl_div(log_tuned, reference, reduction="none", log_target=True).sum(dim=-1) * w
                ).sum()
            )
        return total

    def rows_at_a_time(self) -> int:
        return chunk_rows(self.module.weight)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.fused:
            return hidden.float()
        return torch.nn.functional.linear(hidden, self.module.weight, self.module.bias).float()


def _identity(hidden: torch.Tensor) -> torch.Tensor:
    return hidden
