"""What the pipeline's face runs: adapters of several domains in, one proven model out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retain.combine.work import by_domain, weighted
from retain.merge.door import run_many


def run(
    config: Mapping[str, Any], base: Mapping[str, str], merge_weights: str, adapters: Sequence[Any], mixtures: Sequence[Any], model: str,
) -> dict[str, Any]:  # fmt: skip
    """adapters, mixtures: artifacts in any order; each adapter names its mixture."""
    found = by_domain([Path(a.path) for a in adapters], [Path(m.path) for m in mixtures])
    return run_many(config, base, weighted(merge_weights, found), model)
