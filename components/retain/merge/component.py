"""KFP face of the merge."""

from kfp import dsl

from retain.faces import on_gpu


@on_gpu
def merge(
    config: dict, base: dict, adapter: dsl.Input[dsl.Model], model: dsl.Output[dsl.Model], domain: str = ""
) -> None:
    """Write base + adapter as one model, with the proof that it is that.

    Args:
        config: strength and precision.
        base: the base model.
        adapter: the adapter, or the changed weights.
        model: Hugging Face layout with manifest.json and proof.json.
        domain: of the adapter, in a run with several; it only names the stage in the tracker.
    """
    from retain.merge.door import run

    model.metadata.update(run(config, base, adapter.path, model.path, domain))
