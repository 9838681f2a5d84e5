"""The ways to combine a second time, by another route: a proof must not share a fault with what it proves.

Selection instead of order statistics, choices instead of products, fp64 instead of fp32, a block of entries at a time (memory
beside the changes: a byte an entry for dare). Only dare's draws are the same: they are what its seed says.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Tensors = Sequence[torch.Tensor]

# Entries [first, end) of the flat combination in fp64, and where it may fall either way (None: nowhere).
Block = Callable[[slice], "tuple[torch.Tensor, torch.Tensor | None]"]
CANCELS = 1e-6  # a sum this small beside its parts has no sign that two precisions would agree on
ALIKE, ALIKE_MARGIN = 0.9995, 1e-5  # above this cosine, slerp is linear


def combined(method: str, changes: "Tensors", weights: Sequence[float], density: float, key: str) -> Block:
    """The combination of ``changes`` (flat, fp32, of equal length); arguments as in :mod:`retain.merge.combine`."""
    if method == "ties":
        return _ties(changes, weights, density)
    if method == "dare":
        kept = [_drawn(len(change), density, f"{key}:{number}") for number, change in enumerate(changes)]
        return lambda part: (sum(weight / density * c[part].double().where(k[part], 0) for c, k, weight in zip(changes, kept, weights, strict=True)), None)  # type: ignore[return-value]  # fmt: skip
    if method == "slerp" and len(changes) == 2:
        return _slerp(changes, weights)
    return lambda part: (sum(weight * c[part].double() for c, weight in zip(changes, weights, strict=True)), None)  # type: ignore[return-value]  # fmt: skip


def _ties(changes: "Tensors", weights: Sequence[float], density: float) -> Block:
    import numpy as np
    import torch

    keep = max(1, round(density * len(changes[0])))
    limits = [float(np.partition(c.abs().numpy(), len(c) - keep)[len(c) - keep]) for c in changes]

    def block(part: slice) -> "tuple[torch.Tensor, torch.Tensor]":
        values = [weight * c[part].double().where(c[part].abs() >= limit, 0) for c, weight, limit in zip(changes, weights, limits, strict=True)]  # fmt: skip
        votes, size = torch.stack(values).sum(0), torch.stack(values).abs().sum(0)
        total, mass = torch.zeros_like(votes), torch.zeros_like(votes)
        for value, weight in zip(values, weights, strict=True):
            with_it = value * votes > 0
            total += value.where(with_it, 0)
            mass += with_it * abs(weight)
        return total / mass.where(mass > 0, 1), votes.abs() < CANCELS * size

    return block


def _drawn(count: int, density: float, key: str) -> "torch.Tensor":
    import torch

    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    return torch.rand(count, generator=torch.Generator().manual_seed(seed)) < density


def _slerp(changes: "Tensors", weights: Sequence[float]) -> Block:
    """The angle by its half (Kahan, "How futile are mindless assessments of roundoff", 2006, section 12)."""
    import math

    import torch

    one, two = changes
    sizes = [math.sqrt(sum(float(p.double().square().sum()) for p in c.split(1 << 24))) for c in changes]
    share = weights[1] / (weights[0] + weights[1])
    near = sum(float((a.double() / (sizes[0] or 1) - b.double() / (sizes[1] or 1)).square().sum()) for a, b in zip(one.split(1 << 24), two.split(1 << 24), strict=True))  # fmt: skip
    angle = 2 * math.asin(min(1.0, math.sqrt(near) / 2))
    alike = abs(math.cos(angle)) > ALIKE or not all(sizes)
    first, second = (1 - share, share) if alike else (math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle))  # fmt: skip
    unsure = abs(abs(math.cos(angle)) - ALIKE) < ALIKE_MARGIN

    def block(part: slice) -> "tuple[torch.Tensor, torch.Tensor | None]":
        total = first * one[part].double() + second * two[part].double()
        return total, torch.ones_like(total, dtype=torch.bool) if unsure else None

    return block
