"""KFP face of the data checks."""

from kfp import dsl

from retain.faces import on_cpu


@on_cpu
def validate(
    config: dict,
    sources: list,
    base: dict,
    dataset: dsl.Output[dsl.Dataset],
    rejects: dsl.Output[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    domain: str = "",
) -> None:
    """Read every file, find its shape, check every row; what is refused is kept with its reasons.

    Args:
        config: checks and thresholds.
        sources: dataset entries with the digests of their files.
        base: the base model; its tokenizer counts the tokens.
        dataset: the rows that passed.
        rejects: the rows that did not, each with file, row number and reasons.
        report: one self-contained page.
        domain: the domain of these rows, in a run with several; it only names the stage in the tracker.
    """
    from retain.validate.door import run

    dataset.metadata.update(run(config, sources, base, dataset.path, rejects.path, report.path, domain))
