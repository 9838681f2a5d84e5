"""KFP face of the ending without a publication."""

from kfp import dsl

from retain.faces import on_cpu


@on_cpu
def stop(verdict: dsl.Input[dsl.Artifact]) -> None:
    """End the run as the gate said: red for a regression, green where it passed or a person has to decide.

    Args:
        verdict: the gate's verdict.json and evidence.json.
    """
    from retain.stop.door import run

    run(verdict.path)
