"""KFP face of the compression."""

from kfp import dsl

from retain.faces import on_gpu


@on_gpu
def compress(config: dict, model: dsl.Input[dsl.Model], compressed: dsl.Output[dsl.Model]) -> None:
    """Prune or pack a tuned model: a new candidate, smaller, which the gate has not seen yet.

    Args:
        config: method, sparsity or type, and what is left alone.
        model: the merged model.
        compressed: the smaller one, with compression.json and manifest.json.
    """
    from retain.compress.door import run

    compressed.metadata.update(run(config, model.path, compressed.path))
