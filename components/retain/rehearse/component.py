"""KFP face of rehearsal."""

from kfp import dsl

from retain.faces import on_gpu


@on_gpu
def rehearse(
    config: dict, base: dict, dataset: dsl.Input[dsl.Dataset], generated: dsl.Output[dsl.Dataset], domain: str = ""
) -> None:
    """Let the base answer general prompts, where replay.source is generated; otherwise nothing, in a second.

    Args:
        config: sampling settings, and whether rehearsal is wanted.
        base: the base model.
        dataset: checked rows; prompts of the replay part are answered.
        generated: replay rows written by the base.
        domain: the domain of these rows, in a run with several; it only names the stage in the tracker.
    """
    from retain.rehearse.door import run

    generated.metadata.update(run(config, base, dataset.path, generated.path, domain))
