"""The win rate that would have been seen had both models written at the same length.

Length-controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475, section 3): a logistic regression of the preference on
the model (an intercept) and on tanh of the standardised difference in length; with the length term set to zero the
intercept alone says the win rate. Their third term, the difficulty of an instruction, is estimated over many models and
cannot be had from one pair; it is left out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Standard deviation of a normal prior on both coefficients: where one side wins every game, they stay finite.
PRIOR_SD = 5.0


def controlled(values: Sequence[float], base_lengths: Sequence[int], candidate_lengths: Sequence[int]) -> float:
    """Length-controlled win rate in [0, 1] from each pair's value in [0, 1] and both answers' lengths in characters."""
    from scipy.optimize import minimize

    won = np.asarray(values, dtype=float)
    longer = longer_by(base_lengths, candidate_lengths)

    def loss(coefficients: NDArray[np.float64]) -> float:
        at = coefficients[0] + coefficients[1] * longer
        return float((np.logaddexp(0.0, at) - won * at).sum() + (coefficients**2).sum() / (2 * PRIOR_SD**2))

    found = minimize(loss, np.zeros(2), method="BFGS")
    return float(1 / (1 + np.exp(-found.x[0])))


def longer_by(base_lengths: Sequence[int], candidate_lengths: Sequence[int]) -> NDArray[np.float64]:
    """tanh of the difference in length (candidate − base) over its standard deviation; zeros where nothing differs."""
    difference = np.asarray(candidate_lengths, dtype=float) - np.asarray(base_lengths, dtype=float)
    spread = difference.std()
    return np.tanh(difference / spread) if spread else np.zeros_like(difference)
