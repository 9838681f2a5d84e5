"""What an adapter changes: ΔW of every tensor it touches, exact, a block of rows at a time, in fp32."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from retain.merge.tensors import Folder

if TYPE_CHECKING:
    import torch


class Delta(Protocol):
    """ΔW of one tensor. whole: rows cannot be computed on their own (a norm over columns)."""

    @property
    def whole(self) -> bool: ...

    def rows(self, first: int, base: "torch.Tensor") -> "torch.Tensor":
        """ΔW of the rows that start at ``first``; ``base``: the same rows of W in fp32, not changed."""
        ...


@dataclass(frozen=True)
class LowRank:
    """scale · B A, A (r, in), B (out, r) in fp32, for a weight stored as (out, in); transposed: stored as (in, out).

    LoRA (Hu et al. 2021, arXiv 2106.09685, section 4.1); an embedding (vocabulary, width) is the transposed case.
    """

    a: "torch.Tensor"
    b: "torch.Tensor"
    scale: float
    transposed: bool = False
    whole = False

    @cached_property
    def acts(self) -> bool:
        return bool(self.a.any() and self.b.any())

    def factors(self, first: int, count: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """(left, right) with scale · left @ right = ΔW of these rows."""
        if self.transposed:
            return self.a.T[first : first + count], self.b.T
        return self.b[first : first + count], self.a

    def rows(self, first: int, base: "torch.Tensor") -> "torch.Tensor":
        left, right = self.factors(first, base.shape[0])
        return (left @ right).mul_(self.scale)


@dataclass(frozen=True)
class Dora:
    """m ⊙ (W + ΔV) / ‖W + ΔV‖ − W, the norm over the input axis (Liu et al. 2024, arXiv 2402.09353, eq. 5).

    by_column: the output axis is the second one of the stored tensor (Conv1D, embeddings).
    """

    low_rank: LowRank
    magnitude: "torch.Tensor"
    by_column: bool

    @property
    def whole(self) -> bool:
        return self.by_column

    def rows(self, first: int, base: "torch.Tensor") -> "torch.Tensor":
        direction = self.low_rank.rows(first, base).add_(base)
        if self.by_column:
            return direction.mul_(self.magnitude / direction.norm(dim=0)).sub_(base)
        size = self.magnitude[first : first + base.shape[0]] / direction.norm(dim=1)
        return direction.mul_(size[:, None]).sub_(base)


@dataclass(frozen=True)
class Shift:
    """A change of a bias: value (out,) in fp32."""

    value: "torch.Tensor"
    whole = False

    def rows(self, first: int, base: "torch.Tensor") -> "torch.Tensor":
        return self.value[first : first + base.shape[0]].clone()


@dataclass(frozen=True)
class Replace:
    """A tensor trained as a whole (modules_to_save, changed weights): ΔW = new − W. It may have more rows than the base."""

    folder: Folder
    name: str
    whole = False

    def new(self, first: int, count: int) -> "torch.Tensor":
        import torch

        spec = self.folder.spec(self.name)
        buffer = torch.empty(count * spec.row_bytes, dtype=torch.uint8)
        return self.folder.read(self.name, first, count, buffer)

    def rows(self, first: int, base: "torch.Tensor") -> "torch.Tensor":
        return self.new(first, base.shape[0]).reshape(base.shape).float() - base


@dataclass(frozen=True)
class Tokens:
    """Single rows trained anew (peft's trainable_token_indices): values (n, width) at ``indices`` of the embedding."""

    indices: tuple[int, ...]
    values: "torch.Tensor"
    whole = False

    def rows(self, first: int, base: "torch.Tensor") -> "torch.Tensor":
        import torch

        change = torch.zeros_like(base)
        for row, value in zip(self.indices, self.values, strict=True):
            if first <= row < first + base.shape[0]:
                change[row - first] = value - base[row - first]
        return change


@dataclass(frozen=True)
class Scale:
    """W ⊙ l − W: one factor for each row (or bias entry), or for each column. factors: fp32, (out,) or (in,).

    IA³ (Liu et al. 2022, arXiv 2205.05638, section 3.3).
    """

    factors: "torch.Tensor"
    by_row: bool
    whole = False

    def rows(self, first: int, base: "torch.Tensor") -> "torch.Tensor":
        chosen = self.factors[first : first + base.shape[0]] if self.by_row else self.factors
        return base * (chosen[:, None] if self.by_row and base.ndim == 2 else chosen) - base


@dataclass(frozen=True)
class Rotate:
    """W Rᵀ − W, R block-diagonal over the inputs. blocks: fp32 (n, b, b) with n · b = in.

    OFT (Qiu et al. 2023, arXiv 2306.07280, section 3).
    """

    blocks: "torch.Tensor"
    whole = False

    def rows(self, first: int, base: "torch.Tensor") -> "torch.Tensor":
        import torch

        parts = base.reshape(base.shape[0], *self.blocks.shape[:2])
        return torch.einsum("rnk,nck->rnc", parts, self.blocks).reshape(base.shape) - base


def rotations(weight: "torch.Tensor", terms: int) -> "torch.Tensor":
    """Blocks (n, b, b) from the upper triangles (n, b(b−1)/2) of skew matrices Q: (I + Q)⁻¹(I − Q) transposed as peft has it.

    terms: of the Neumann series that stands for the inverse in training (0: the inverse itself).
    """
    import torch

    side = round((1 + (1 + 8 * weight.shape[1]) ** 0.5) / 2)
    skew = torch.zeros(weight.shape[0], side, side)
    skew[:, *torch.triu_indices(side, side, 1)] = weight
    skew = skew - skew.transpose(1, 2)
    one = torch.eye(side).expand_as(skew)
    if not terms:
        return torch.linalg.solve(one + skew, one - skew, left=False)
    # I + 2Q + 2Q² + … + Qⁿ; peft (0.21) takes three terms as four, and two without a last one that counts once.
    last = max(terms, 4) - 1 if terms > 2 else terms - 1
    total, power = one.clone(), one
    for degree in range(1, last + 1):
        power = power @ skew
        total.add_(power, alpha=1.0 if degree == last and terms > 2 else 2.0)
    return total


@dataclass(frozen=True)
class Subspace:
    """U S V − (W − its leading singular part): what was trained outside the leading subspace of W (peft's OSF).

    u (out, r), s (r,), v (r, in) in fp32; the leading min(out, in) − r singular values of W stay.
    """

    u: "torch.Tensor"
    s: "torch.Tensor"
    v: "torch.Tensor"
    whole = True

    def rows(self, first: int, base: "torch.Tensor") -> "torch.Tensor":
        import torch

        left, values, right = torch.linalg.svd(base, full_matrices=False)
        kept = values.numel() - self.s.numel()
        leading = (left[:, :kept] * values[:kept]) @ right[:kept]
        return ((self.u * self.s) @ self.v).add_(leading).sub_(base)
