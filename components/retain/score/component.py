"""KFP face of the scorer."""

from typing import Optional

from kfp import dsl

from retain.faces import on_gpu


@on_gpu
def score(config: dict, base: dict, dataset: dsl.Input[dsl.Dataset], scores: dsl.Output[dsl.Dataset], metrics: dsl.Output[dsl.Metrics], model: Optional[dsl.Input[dsl.Model]] = None) -> None:  # noqa: UP045 (kfp reads this form only)
    """Score a model on the benchmarks and on the target's test rows, item by item.

    Args:
        config: benchmarks, shots, target metric, precision.
        base: the base model; scored where no model is given.
        dataset: checked rows; those of split test measure the target.
        scores: one record per item.
        metrics: the mean per benchmark.
        model: the candidate.
    """
    from retain.score.door import run

    metrics.metadata.update(run(config, base, model.path if model else "", dataset.path, scores.path, metrics.path))
