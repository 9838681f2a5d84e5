"""Stop early on the fail side: a bet against "the macro drop is at most m" that may be looked at after every item.

Betting e-process after Waudby-Smith and Ramdas 2024 (JRSS-B 86, 1–27): wealth K_t = Π (1 + l_t·x_t), x = d − m in
[−(1+m), 1−m], 0 ≤ l_t ≤ ½/(1+m), l_t from the past only; an alarm at 1/alpha is wrong in at most ``alpha`` of all runs,
however often one looks (Ville). Units arrive in rounds, one of every benchmark; l is constant inside a round, so
Π(1 + l·E x_k) ≤ (1 + l·mean E x_k)^K ≤ 1 wherever the macro drop is at most m.
"""

from collections.abc import Sequence

import numpy as np

from retain.gate.pairs import Pairs
from retain.gate.split import positions
from retain.gate.statistics import Array


def rounds(tasks: Sequence[Pairs], weights: Array, m: float, seed: int) -> Array:
    """x of every round, shape (rounds, K); a unit is a whole cluster; ends where the smallest benchmark is used up."""
    columns = [_units(task, m, seed) * w / weights.max() for task, w in zip(tasks, weights, strict=True)]
    shortest = min(len(c) for c in columns)
    return np.stack([c[:shortest] for c in columns], axis=-1)


def _units(task: Pairs, m: float, seed: int) -> Array:
    """Sum of d − m over each cluster, by the largest cluster's size (so within the bounds), in the order of the looks."""
    place = positions(seed, task.name, task.cluster, "look")
    _, code = np.unique(place, return_inverse=True)
    return np.asarray(np.bincount(code, weights=task.base - task.tuned - m) / np.bincount(code).max())


def log_wealth(x: Array, m: float) -> Array:
    """Logarithm of the wealth after each round; x (..., rounds, K) → (..., rounds)."""
    k = x.shape[-1]
    count = k * np.arange(x.shape[-2])
    first, second = (np.cumsum((x**power).sum(-1), axis=-1) for power in (1, 2))
    seen, squares = (np.concatenate([np.zeros_like(s[..., :1]), s[..., :-1]], axis=-1) for s in (first, second))
    mean, power = seen / (count + 1), (squares + 0.25) / (count + 1)
    bet = np.clip(mean / power, 0.0, 0.5 / (1 + m))
    return np.cumsum(np.log1p(bet[..., None] * x).sum(-1), axis=-1)


def alarm(x: Array, m: float, alpha: float) -> Array:
    """Round (from 1) at which the wealth reaches 1/alpha; 0: never. x (..., rounds, K) → (...)."""
    crossed = log_wealth(x, m) >= np.log(1 / alpha)
    return np.where(crossed.any(-1), crossed.argmax(-1) + 1, 0)
