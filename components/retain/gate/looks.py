"""When a verdict may be asked for more than once: alpha spent over attempts, and four planned looks.

One-sided O'Brien–Fleming boundaries at equal fractions (1979, Biometrics 35, 549–556), found by the recursion of
Armitage, McPherson and Rowe (1969): 3.47, 2.46, 2.01, 1.74 at alpha .05.
"""

from functools import lru_cache

import numpy as np
from scipy import special

from retain.gate.statistics import Array

GRID = 1201


def alpha_at(attempt: int, alpha: float = 0.05) -> float:
    """What the n-th verdict on the same decision items may spend: .05, .025, .0125, …"""
    return float(alpha / 2 ** (attempt - 1))


@lru_cache(maxsize=64)
def boundaries(alpha: float, looks: int) -> tuple[float, ...]:
    """z that each look must pass, at fractions 1/looks, 2/looks, …, 1; the chance of ever passing at 0 is ``alpha``."""
    if looks == 1:
        return (float(-special.ndtri(alpha)),)
    from scipy import optimize  # a heavy import that only this needs

    last = optimize.brentq(lambda z: _crossing(z, looks) - alpha, 0.5, 6.0, xtol=1e-6)
    return tuple(float(last / np.sqrt(k / looks)) for k in range(1, looks + 1))


def _crossing(last: float, looks: int) -> float:
    """Chance that a Brownian motion, seen at k/looks, is ever above last·1 (O'Brien–Fleming is flat in B(t))."""
    step, grid = np.sqrt(1 / looks), np.linspace(-8.0, last, GRID)
    weight = np.full(GRID, grid[1] - grid[0])
    weight[[0, -1]] /= 2
    density, crossed = _normal(grid / step) / step, float(special.ndtr(-last / step))
    leap = _normal((grid[:, None] - grid[None, :]) / step) / step
    for _ in range(looks - 1):
        crossed += float((density * weight) @ special.ndtr((grid - last) / step))
        density = leap @ (density * weight)
    return crossed


def _normal(x: Array) -> Array:
    return np.asarray(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))
