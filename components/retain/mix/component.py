"""KFP face of the mixture."""

from kfp import dsl

from retain.faces import on_cpu


@on_cpu
def mix(
    config: dict,
    score: dict,
    rendered: dsl.Input[dsl.Dataset],
    mixture: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    domain: str = "",
) -> None:
    """Interleave general rows at an exact share of tokens, without a row that the gate's items contain.

    Args:
        config: replay share and sources.
        score: the benchmarks whose items may not be trained on.
        rendered: tokens and labels.
        mixture: what is trained on.
        report: shares, and dropped rows beside the benchmark items they match.
        domain: the domain of these rows, in a run with several; it only names the stage in the tracker.
    """
    from retain.mix.door import run

    mixture.metadata.update(run(config, score, rendered.path, mixture.path, report.path, domain))
