"""KFP face of the exit handler."""

from kfp import dsl

from retain.faces import on_cpu


@on_cpu
def close(pipeline: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """End the run in the tracker and post its verdict to the webhook of the secret, however the other tasks ended.

    Args:
        pipeline: name of the pipeline.
        status: how the tasks ended, from KFP.
    """
    from retain.close.door import run

    run(pipeline, status)
