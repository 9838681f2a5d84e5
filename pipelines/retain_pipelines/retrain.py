"""retrain: fresh rows in; a candidate that must pass against the model in service and against the original base out."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from retain.config import parse
from retain.gate.component import gate
from retain.judge.component import judge
from retain.renew.component import renew
from retain.renew.config import RenewConfig
from retain.resolve.component import resolve
from retain.resolve.form import short_form, to_form
from retain.resolve.recipe import Recipe, load
from retain.score.component import score
from retain_pipelines import chain
from retain_pipelines.closing import closed

NAME = "retrain"
WINDOW = RenewConfig().as_parameter()
# What a retraining adds to the form: the margins of its second comparison.
CUMULATIVE = ("cumulative_factor", "target.champion_rule")


def arguments(recipe: Recipe, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument in full: the recipe's, and what a retraining adds (``changes`` of RenewConfig)."""
    return {**to_form(recipe), **parse(RenewConfig, changes).as_parameter()}


def _defaults() -> dict[str, Any]:
    recipe = load("quickstart")
    form, full = short_form(recipe), to_form(recipe)
    shown = {**form["gate_settings"], **{key: full["gate_settings"][key] for key in CUMULATIVE}}
    return {**form, "gate_settings": shown, **WINDOW}


DEFAULTS: dict[str, Any] = _defaults()


@dsl.pipeline(
    name=NAME,
    description="Train again on a window of fresh data; publish only what passes against the model in service and against the original base.",
)
@closed
def retrain(
    base_champion: str = DEFAULTS["base_champion"],
    base_model: str = DEFAULTS["base_model"],
    base_start: str = DEFAULTS["base_start"],
    compress_method: str = DEFAULTS["compress_method"],
    data_id: str = DEFAULTS["data_id"],
    data_replay_share: float = DEFAULTS["data_replay_share"],
    data_settings: dict = DEFAULTS["data_settings"],
    data_window_days: int = DEFAULTS["data_window_days"],
    data_window_end: str = DEFAULTS["data_window_end"],
    gate_max_drop: float = DEFAULTS["gate_max_drop"],
    gate_min_gain: float = DEFAULTS["gate_min_gain"],
    gate_settings: dict = DEFAULTS["gate_settings"],
    publish: bool = DEFAULTS["publish"],
    publish_name: str = DEFAULTS["publish_name"],
    run_settings: dict = DEFAULTS["run_settings"],
    score_benchmarks: str = DEFAULTS["score_benchmarks"],
    score_settings: dict = DEFAULTS["score_settings"],
    train_epochs: float = DEFAULTS["train_epochs"],
    train_learning_rate: float = DEFAULTS["train_learning_rate"],
    train_method: str = DEFAULTS["train_method"],
    train_settings: dict = DEFAULTS["train_settings"],
) -> None:
    """Train again without forgetting.

    Args:
        base_champion: alias of the registered model in service; the first time there is none.
        base_model: URI of the original base.
        base_start: what the training starts from, base or champion.
        compress_method: none, or the form (magnitude, 2:4, int8, nf4, gguf) in which a model that passed is gated again and published.
        data_id: URI of the training rows; {day} in it (also in data_settings) stands for every day of the window.
        data_replay_share: share of general rows among the trained tokens.
        data_settings: further datasets, checks, template and replay settings (dotted keys).
        data_window_days: days of data before data_window_end; 0: no window.
        data_window_end: the day after the window's last one, YYYY-MM-DD, or today.
        gate_max_drop: largest macro-average drop against the model in service that passes, in points.
        gate_min_gain: smallest gain of the target metric against the original base that passes, in points.
        gate_settings: tiers, margins and looks of the gate.
        publish: register the model when the gate passes.
        publish_name: name of the registered model.
        run_settings: revision of the base, merge strength, repair, registry and tracking.
        score_benchmarks: lm-eval task names, separated by commas.
        score_settings: shots, limits, target metric and precision of the scorer.
        train_epochs: passes over the mixture.
        train_learning_rate: peak learning rate; 0 takes the method's own.
        train_method: lora, full, …
        train_settings: adapter shape, schedule, batch and stopping.
    """
    window = renew(
        base_model=base_model, base_champion=base_champion, base_start=base_start, data_id=data_id, data_settings=data_settings,
        data_window_days=data_window_days, data_window_end=data_window_end, publish_name=publish_name, run_settings=run_settings,
    ).set_caching_options(False)  # fmt: skip
    start = resolve(
        base_model=base_model, compress_method=compress_method, data_id=window.outputs["data_id"], data_replay_share=data_replay_share, data_settings=window.outputs["data_settings"],
        gate_max_drop=gate_max_drop, gate_min_gain=gate_min_gain, gate_settings=gate_settings, publish=publish,
        publish_name=publish_name, run_settings=run_settings, score_benchmarks=score_benchmarks, score_settings=score_settings,
        train_epochs=train_epochs, train_learning_rate=train_learning_rate, train_method=train_method, train_settings=train_settings,
    ).set_caching_options(False)  # fmt: skip
    done, recipe = chain.made(start, window.outputs["start"]), start.outputs["recipe"]
    how = {"config": start.outputs["score"], "dataset": done.rows.outputs["dataset"]}
    before = score(**how, base=start.outputs["base"], role="base").set_display_name("score-base")
    served = score(**how, base=window.outputs["champion"], role="champion").set_display_name("score-champion")
    after = score(
        **how, base=start.outputs["base"], model=done.merged.outputs["model"], policy=start.outputs["gate"], baseline=before.outputs["scores"],
        champion=served.outputs["scores"],
    ).set_display_name("score-candidate")  # fmt: skip

    # Both are compared with the original base, so that their win rates can be compared with each other.
    def judged(scored: Any, role: str) -> Any:
        both = {"base_scores": before.outputs["scores"], "candidate_scores": scored.outputs["scores"]}
        return judge(**how, **both).set_display_name(f"judge-{role}")

    in_service = judged(served, "champion")

    def decide(scored: Any, role: str = "", **named: Any) -> Any:
        fresh = judged(scored, role or "candidate")
        return gate(
            config=start.outputs["gate"], base_scores=fresh.outputs["base_judged"], champion_scores=in_service.outputs["candidate_judged"],
            candidate_scores=fresh.outputs["candidate_judged"], recipe=recipe, role=role, **done.shown(), **named,
        ).set_caching_options(False)  # fmt: skip

    decision = decide(after, repairs=True)
    smaller = chain.Smaller(compress_method, done.rows.outputs["dataset"], decide)
    chain.end(start, decision, done.merged.outputs["model"], smaller)
    chain.mend(
        start, window.outputs["start"], done, decision, before=before, after=after, decide=decide, recipe=recipe, smaller=smaller,
    )  # fmt: skip
