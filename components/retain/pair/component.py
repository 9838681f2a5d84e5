"""KFP face of the first task of a comparison."""

from typing import NamedTuple

from retain.faces import on_cpu


@on_cpu
def pair(
    base_model: str,
    base_revision: str,
    candidate_model: str,
    candidate_revision: str,
    candidate_data: str,
    gate_max_drop: float,
    gate_settings: dict,
    score_benchmarks: str,
    score_settings: dict,
) -> NamedTuple("Paired", [("base", dict), ("candidate", dict), ("score", dict), ("gate", dict), ("data", str)]):  # type: ignore[valid-type]
    """Pin two models by digest and check the settings of scorer and gate, before a GPU is asked for.

    Args:
        base_model: URI of the model that is the measure.
        base_revision: 40-hex commit of a hub model; empty for places that have none.
        candidate_model: URI of the model that is judged.
        candidate_revision: the same for the candidate.
        candidate_data: what the candidate learned; attempts are counted by it.
        gate_max_drop: largest macro-average drop that passes, points.
        gate_settings: tiers, margins, looks.
        score_benchmarks: lm-eval task names, comma-separated.
        score_settings: shots, limits, precision.
    """
    form = dict(locals())
    from retain.pair.door import run

    return run(form)
