"""finetune-without-forgetting: rows in; a gated, proven, registered model out, or a closed gate and the reasons."""

from typing import Any

from kfp import dsl

from retain.gate.component import gate
from retain.judge.component import judge
from retain.resolve.component import resolve
from retain.resolve.form import short_form
from retain.resolve.recipe import load
from retain.score.component import score
from retain_pipelines import chain
from retain_pipelines.closing import closed

NAME = "finetune-without-forgetting"
DEFAULTS: dict[str, Any] = short_form(load("quickstart"))


@dsl.pipeline(
    name=NAME,
    description="Fine-tune a model and prove that it forgot nothing: validate, mix, train, merge, score, gate, publish, repair or stop.",
)
@closed
def finetune(
    base_model: str = DEFAULTS["base_model"],
    compress_method: str = DEFAULTS["compress_method"],
    data_id: str = DEFAULTS["data_id"],
    data_replay_share: float = DEFAULTS["data_replay_share"],
    data_settings: dict = DEFAULTS["data_settings"],
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
    """Fine-tune without forgetting.

    Args:
        base_model: URI of the base model (Hugging Face layout or GGUF).
        compress_method: none, or the form (magnitude, 2:4, int8, nf4, gguf) in which a model that passed is gated again and published.
        data_id: URI of the training rows.
        data_replay_share: share of general rows among the trained tokens.
        data_settings: further datasets, checks, template and replay settings (dotted keys).
        gate_max_drop: largest macro-average drop of the general benchmarks that passes, in points.
        gate_min_gain: smallest gain of the target metric that passes, in points.
        gate_settings: tiers, margins and looks of the gate.
        publish: register the model when the gate passes.
        publish_name: name of the registered model.
        run_settings: revision of the base, merge strength, repair, compression, registry and tracking.
        score_benchmarks: lm-eval task names, separated by commas.
        score_settings: shots, limits, target metric and precision of the scorer.
        train_epochs: passes over the mixture.
        train_learning_rate: peak learning rate; 0 takes the method's own.
        train_method: lora, full, …
        train_settings: adapter shape, schedule, batch and stopping.
    """
    start = resolve(
        base_model=base_model, compress_method=compress_method, data_id=data_id, data_replay_share=data_replay_share, data_settings=data_settings,
        gate_max_drop=gate_max_drop, gate_min_gain=gate_min_gain, gate_settings=gate_settings, publish=publish,
        publish_name=publish_name, run_settings=run_settings, score_benchmarks=score_benchmarks, score_settings=score_settings,
        train_epochs=train_epochs, train_learning_rate=train_learning_rate, train_method=train_method, train_settings=train_settings,
    ).set_caching_options(False)  # fmt: skip
    base, recipe = start.outputs["base"], start.outputs["recipe"]
    done = chain.made(start, base)
    dataset, model = done.rows.outputs["dataset"], done.merged.outputs["model"]
    before = score(config=start.outputs["score"], base=base, dataset=dataset).set_display_name("score-base")
    after = score(
        config=start.outputs["score"], base=base, dataset=dataset, model=model, policy=start.outputs["gate"], baseline=before.outputs["scores"],
    ).set_display_name("score-candidate")  # fmt: skip

    def decide(scored: Any, role: str = "", **named: Any) -> Any:
        judged = judge(
            config=start.outputs["score"], base_scores=before.outputs["scores"], candidate_scores=scored.outputs["scores"], dataset=dataset,
        ).set_display_name("-".join(filter(None, ("judge", role))))  # fmt: skip
        return gate(
            config=start.outputs["gate"], base_scores=judged.outputs["base_judged"], candidate_scores=judged.outputs["candidate_judged"],
            recipe=recipe, role=role, **done.shown(), **named,
        ).set_caching_options(False)  # fmt: skip

    decision = decide(after, repairs=True)
    smaller = chain.Smaller(compress_method, dataset, decide)
    chain.end(start, decision, model, smaller)
    chain.mend(start, base, done, decision, before=before, after=after, decide=decide, recipe=recipe, smaller=smaller)
