"""KFP face of the training."""

from kfp import dsl

from retain.faces import on_gpu


@on_gpu
def train(
    config: dict,
    base: dict,
    mixture: dsl.Input[dsl.Dataset],
    adapter: dsl.Output[dsl.Model],
    history: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    domain: str = "",
) -> None:
    """Tune the base on the mixture; checkpoints survive a kill, two losses are watched.

    Args:
        config: method, rate, schedule, adapter shape, stopping.
        base: the base model.
        mixture: tokens and labels.
        adapter: the adapter, or the changed weights.
        history: losses by step and a summary of the training.
        metrics: last losses and speed.
        domain: the domain of these rows, in a run with several; it only names the stage in the tracker.
    """
    from retain.train.door import run

    metrics.metadata.update(run(config, base, mixture.path, adapter.path, history.path, metrics.path, domain))
