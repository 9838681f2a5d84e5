"""Which items choose a repair and which decide, and in which order looks take them: a hash, never stored.

Whole clusters move together, so that a passage seen while choosing never helps to decide.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from retain.gate.statistics import Array


def positions(seed: int, task: str, cluster: tuple[str, ...], purpose: str = "dev") -> Array:
    """A place in [0, 1) for every item, the same for all items of a cluster; shape (n,)."""
    place = {name: _unit(f"{purpose}:{seed}:{task}:{name}") for name in set(cluster)}
    return np.array([place[name] for name in cluster])


def _unit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:7], "big") / 2**56


def is_dev(seed: int, task: str, cluster: tuple[str, ...], share: float) -> NDArray[np.bool_]:
    """True for the dev items (repair is chosen on them), false for the decision items; shape (n,)."""
    return positions(seed, task, cluster) < share


def look_of(seed: int, task: str, cluster: tuple[str, ...], looks: int) -> NDArray[np.int64]:
    """The look, from 1, that an item belongs to: ``looks`` equal fractions of the clusters; shape (n,)."""
    distinct, rank = np.unique(positions(seed, task, cluster, "look"), return_inverse=True)
    last = [max(0, -(-len(distinct) * look // looks) - 1) for look in range(1, looks + 1)]
    return np.searchsorted(last, rank, side="left") + 1


def in_look(seed: int, task: str, cluster: tuple[str, ...], look: int, looks: int) -> NDArray[np.bool_]:
    """True for the items of the first ``look`` of ``looks`` equal fractions of the clusters; shape (n,)."""
    if look == looks:
        return np.ones(len(cluster), dtype=bool)
    return look_of(seed, task, cluster, looks) <= look
