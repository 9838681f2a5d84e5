"""KFP face of the publication."""

from kfp import dsl

from retain.faces import on_cpu


@on_cpu
def publish(
    config: dict,
    model: dsl.Input[dsl.Model],
    verdict: dsl.Input[dsl.Artifact],
    recipe: dsl.Input[dsl.Artifact],
    published: dsl.Output[dsl.Artifact],
) -> None:
    """Register exactly the model that was gated; anything else is refused.

    Args:
        config: name, alias, store.
        model: the merged candidate.
        verdict: the gate's verdict on it.
        recipe: the resolved recipe, for the card and the lineage.
        published: name, version and address of the registered model.
    """
    from retain.publish.door import run

    published.metadata.update(run(config, model.path, verdict.path, recipe.path, published.path))
