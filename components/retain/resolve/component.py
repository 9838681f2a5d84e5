"""KFP face of the first task."""

from typing import NamedTuple

from kfp import dsl

from retain.faces import on_cpu


@on_cpu
def resolve(
    base_model: str,
    data_id: str,
    data_replay_share: float,
    data_settings: dict,
    gate_max_drop: float,
    gate_min_gain: float,
    gate_settings: dict,
    publish: bool,
    publish_name: str,
    run_settings: dict,
    score_benchmarks: str,
    score_settings: dict,
    train_epochs: float,
    train_learning_rate: float,
    train_method: str,
    train_settings: dict,
    recipe: dsl.Output[dsl.Artifact],
    compress_method: str = "none",
) -> NamedTuple(  # type: ignore[valid-type]
    "Resolved",
    [
        ("base", dict), ("sources", list), ("checks", dict), ("template", dict), ("rehearse", dict), ("mix", dict),
        ("train", dict), ("merge", dict), ("score", dict), ("gate", dict), ("repair", dict), ("compress", dict), ("publish", dict),
    ],
):  # fmt: skip
    """Pin everything a run depends on: settings are checked, URIs become digests; later steps take only these.

    Args:
        base_model: URI of the base model.
        data_id: URI of the training rows.
        data_replay_share: share of general rows among the trained tokens.
        data_settings: further datasets, checks, template and replay settings.
        gate_max_drop: largest macro-average drop that passes, points.
        gate_min_gain: smallest gain of the target metric that passes, points.
        gate_settings: tiers, margins, looks.
        publish: register the model when the gate passes.
        publish_name: registered model's name.
        run_settings: revision, merge, repair, compression, registry, tracking.
        score_benchmarks: lm-eval task names, comma-separated.
        score_settings: shots, limits, target metric, precision.
        train_epochs: passes over the mixture.
        train_learning_rate: peak rate; 0 takes the method's own.
        train_method: lora, full, …
        train_settings: adapter shape, schedule, batch, stopping.
        recipe: the resolved recipe as JSON.
        compress_method: form in which a model that passed is gated again and published.
    """
    form = {name: value for name, value in locals().items() if name != "recipe"}
    from retain.resolve.door import run

    return run(form, recipe.path)
