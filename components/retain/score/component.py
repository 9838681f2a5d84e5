"""KFP face of the scorer."""

from typing import Optional

from kfp import dsl

from retain.faces import on_gpu


@on_gpu
def score(
    config: dict,
    base: dict,
    scores: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    dataset: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045 (kfp reads this form only)
    model: Optional[dsl.Input[dsl.Model]] = None,  # noqa: UP045
    role: str = "",
    domain: str = "",
    policy: dict = {},  # noqa: B006 (kfp reads it once)
    baseline: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045
    champion: Optional[dsl.Input[dsl.Dataset]] = None,  # noqa: UP045
) -> None:
    """Score a model on the benchmarks and on the target's test rows, item by item.

    Args:
        config: benchmarks, shots, target metric, precision.
        base: address and digest of the model that is scored where no model is given.
        scores: one record per item.
        metrics: the mean per benchmark.
        dataset: checked rows; those of split test measure the target. None: benchmarks only.
        model: the candidate.
        role: base, champion, candidate, repaired or compressed; empty: candidate where a model is given.
        domain: of the adapter in the model, in a run with several; the scores carry it as metadata.
        policy: the gate's, whose looks may end the scoring of a candidate early.
        baseline: scores of the base, for these looks.
        champion: scores of the model in service, for these looks.
    """
    from retain.score.door import path_of, run

    scores.metadata["domain"] = domain
    metrics.metadata.update(
        run(
            config, base, path_of(model), path_of(dataset), scores.path, metrics.path, role, domain,
            policy=policy, baseline=path_of(baseline), champion=path_of(champion),
        )
    )  # fmt: skip
