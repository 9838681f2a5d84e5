"""What a preference is worth: the losses of DPO, KTO and ORPO from the log-probabilities of the answers. Pure.

trl holds the same formulas inside trainers of its own, which make their own batches, patch the model's forward, add a
copy of the adapter as the reference and keep pickled checkpoints; here they run on this step's batches, checkpoints and
protections. The tests hold loss and gradient of each against trl's trainer.
"""

from typing import NamedTuple

import torch
from torch.nn.functional import logsigmoid


class Judged(NamedTuple):
    """[N] each. losses: one a row, differentiable. chosen, rejected: rewards β·(log p − log p_reference), detached, NaN for the
    side that a kto row does not have."""

    losses: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor


def dpo(policy: torch.Tensor, reference: torch.Tensor, beta: float) -> Judged:
    """−log σ(β·(r_chosen − r_rejected)), r = log p − log p_reference (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    ``policy``, ``reference``: [2N], nats, the chosen answers first.
    """
    chosen, rejected = (beta * (policy - reference)).chunk(2)
    return Judged(-logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())


def kto(policy: torch.Tensor, reference: torch.Tensor, desirable: torch.Tensor, point: float, beta: float, weights: tuple[float, float]) -> Judged:  # fmt: skip
    """λ_D·(1 − σ(β(r − z₀))) for a desirable answer, λ_U·(1 − σ(β(z₀ − r))) for another (arXiv 2402.01306, equation 8).

    ``policy``, ``reference``: [N], nats. ``point``: z₀, how far the policy has drifted on crossed answers, nats, at least 0.
    ``weights``: (λ_D, λ_U).
    """
    rewards = beta * (policy - reference)
    away = torch.where(desirable, 1.0, -1.0) * (rewards - beta * point)
    losses = torch.where(desirable, *weights) * (1 - torch.sigmoid(away))
    none = torch.full_like(rewards, float("nan"))
    seen = rewards.detach()
    return Judged(losses, torch.where(desirable, seen, none), torch.where(desirable, none, seen))


def orpo(policy: torch.Tensor, lengths: torch.Tensor, beta: float) -> Judged:
    """Mean loss of the chosen answer − β·log σ(log odds ratio); no reference (Hong et al. 2024, arXiv 2403.07691, equations 6 and 7).

    ``policy``: [2N], nats, the chosen answers first; ``lengths``: their tokens. The odds are those of the mean per token.
    """
    mean = policy / lengths
    odds = mean - torch.log(-torch.expm1(mean.clamp(max=-1e-7)))
    (good, _), (chosen, rejected) = mean.chunk(2), odds.chunk(2)
    rewards = (beta * mean.detach()).chunk(2)
    return Judged(-good - beta * logsigmoid(chosen - rejected), *rewards)
