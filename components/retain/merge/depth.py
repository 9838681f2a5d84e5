"""Strength by depth: how much of a change each layer takes (LiNeS, Wang et al. 2024, arXiv 2410.17146, eq. 2).

The factor at layer l of L is first + (1 − first) · (l − 1)/(L − 1). Encoder and decoder are two stacks, each with its own
depth. What stands before the stacks (embeddings) counts as a first layer, what stands behind (last norm, head) as a last one.
"""

import re
from collections.abc import Iterable, Mapping

LAYER = re.compile(r"^(.*?)\.(\d+)\.")
AT_THE_START = ("embed_tokens", "wte", "wpe", "shared", "embeddings")


def stacks(names: Iterable[str]) -> dict[str, int]:
    """Prefix of every stack of layers among the tensors' names → its layers."""
    found: dict[str, int] = {}
    for name in names:
        if place := LAYER.match(name):
            found[place[1]] = max(found.get(place[1], 0), int(place[2]) + 1)
    return found


def factor(name: str, layers: Mapping[str, int], first: float) -> float:
    """Factor on the strength of the tensor (or module) ``name``; ``layers``: of :func:`stacks`."""
    place = LAYER.match(f"{name}.")
    if place and place[1] in layers:
        last = layers[place[1]] - 1
        return first + (1 - first) * (int(place[2]) / last if last else 1.0)
    return first if any(part in AT_THE_START for part in name.split(".")) else 1.0
