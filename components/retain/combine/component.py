"""KFP face of the merge of several domains' adapters."""

from typing import List  # noqa: UP035 (kfp reads this form only)

from kfp import dsl

from retain.faces import on_gpu


@on_gpu
def combine(
    config: dict,
    base: dict,
    merge_weights: str,
    adapters: dsl.Input[List[dsl.Model]],  # noqa: UP006
    mixtures: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    model: dsl.Output[dsl.Model],
) -> None:
    """Merge the adapters of all domains into one model, with the proof that it is that.

    Args:
        config: method (linear, ties, dare), strength and precision.
        base: the base model.
        merge_weights: weight of each domain; empty: the same for all.
        adapters: one a domain.
        mixtures: what each was trained on; they name the domains.
        model: Hugging Face layout with manifest.json and proof.json.
    """
    from retain.combine.door import run

    model.metadata.update(run(config, base, merge_weights, adapters, mixtures, model.path))
