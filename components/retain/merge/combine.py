"""How several changes of one tensor become one: linear, TIES, DARE, SLERP, all on the exact ΔW in fp32."""

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    Tensors = Sequence[torch.Tensor]


def linear(changes: "Tensors", weights: Sequence[float], density: float, key: str) -> "torch.Tensor":
    """Σ wᵢ Δᵢ (task arithmetic, Ilharco et al. 2022, arXiv 2212.04089)."""
    total = changes[0] * weights[0]
    for change, weight in zip(changes[1:], weights[1:], strict=True):
        total.add_(change, alpha=weight)
    return total


def ties(changes: "Tensors", weights: Sequence[float], density: float, key: str) -> "torch.Tensor":
    """Trim to the largest ``density`` by magnitude, elect a sign by weighted sum, mean of those that agree.

    Yadav et al. 2023, arXiv 2306.01708, algorithm 1; the mean is weighted, so weights count relative to each other.
    """
    import torch

    trimmed = [_largest(change, density) * weight for change, weight in zip(changes, weights, strict=True)]
    sign = torch.stack(trimmed).sum(0).sign()
    total, mass = torch.zeros_like(sign), torch.zeros_like(sign)
    for change, weight in zip(trimmed, weights, strict=True):
        agrees = (change.sign() == sign) & (change != 0)
        total.add_(change * agrees)
        mass.add_(agrees * abs(weight))
    return total.div_(mass.clamp_(min=torch.finfo(total.dtype).tiny))


def _largest(change: "torch.Tensor", density: float) -> "torch.Tensor":
    keep = max(1, round(density * change.numel()))
    if keep >= change.numel():
        return change
    size = change.abs().flatten()
    return change * (change.abs() >= size.kthvalue(size.numel() - keep + 1).values)


def dare(changes: "Tensors", weights: Sequence[float], density: float, key: str) -> "torch.Tensor":
    """Each entry is kept with probability ``density`` and scaled by 1/density; then linear.

    Yu et al. 2023, arXiv 2311.03099, section 3.1. Seeded by ``key`` (seed and tensor) and the change's number.
    """
    import torch

    kept = []
    for number, change in enumerate(changes):
        seed = int.from_bytes(hashlib.sha256(f"{key}:{number}".encode()).digest()[:7], "big")
        draw = torch.rand(change.shape, generator=torch.Generator().manual_seed(seed))
        kept.append(change * (draw < density) / density)
    return linear(kept, weights, density, key)


def slerp(changes: "Tensors", weights: Sequence[float], density: float, key: str) -> "torch.Tensor":
    """Spherical interpolation of two changes at t = w₂ / (w₁ + w₂) (Shoemake 1985); nearly parallel ones: linear."""
    import torch

    one, two = changes
    t = weights[1] / (weights[0] + weights[1])
    sizes = one.norm() * two.norm()
    cosine = float((one.flatten() @ two.flatten()) / sizes) if sizes > 0 else 1.0
    if abs(cosine) > 0.9995:
        return one * (1 - t) + two * t
    angle = torch.tensor(cosine).acos()
    return one * (((1 - t) * angle).sin() / angle.sin()) + two * ((t * angle).sin() / angle.sin())


METHODS: dict[str, Callable[..., "torch.Tensor"]] = {"linear": linear, "ties": ties, "dare": dare, "slerp": slerp}
