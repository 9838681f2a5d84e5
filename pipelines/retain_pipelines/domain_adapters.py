"""domain-adapters: one adapter a domain, trained side by side; their weighted merge is gated and registered like any other."""

from typing import Any

from kfp import dsl

from retain.combine.component import combine
from retain.divide.component import divide
from retain.gate.component import gate
from retain.judge.component import judge
from retain.resolve.component import resolve
from retain.resolve.form import short_form
from retain.resolve.recipe import load
from retain.score.component import score
from retain.take.component import take
from retain.validate.component import validate
from retain_pipelines import chain
from retain_pipelines.closing import closed

NAME = "domain-adapters"
DEFAULTS: dict[str, Any] = short_form(load("domains"))
# What each domain's training takes of the resolved run.
SHARED = ("base", "sources", "checks", "rehearse", "template", "mix", "score", "train")


def one_domain(entry: Any) -> tuple[Any, Any, Any]:
    """The training of one domain, inside the loop: the tasks ``take``, ``train`` and ``mix``."""
    part = take(entry=entry)
    done = chain.learned(part, part.outputs["base"], domain=part.outputs["domain"])
    return part, done.tuned, done.mixed


@dsl.pipeline(
    name=NAME,
    description="One adapter a domain, trained in parallel, merged by weight, gated as one model: publish or stop.",
)
@closed
def domain_adapters(
    base_model: str = DEFAULTS["base_model"],
    data_id: str = DEFAULTS["data_id"],
    data_replay_share: float = DEFAULTS["data_replay_share"],
    data_settings: dict = DEFAULTS["data_settings"],
    gate_max_drop: float = DEFAULTS["gate_max_drop"],
    gate_min_gain: float = DEFAULTS["gate_min_gain"],
    gate_settings: dict = DEFAULTS["gate_settings"],
    merge_weights: str = "",
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
    """Train one adapter a domain and merge them.

    Args:
        base_model: URI of the base model (Hugging Face layout or GGUF).
        data_id: URI of the first domain's training rows.
        data_replay_share: share of general rows among the trained tokens of each domain.
        data_settings: the other domains' files (the name of a target source is its domain), checks, template, replay.
        gate_max_drop: largest macro-average drop of the general benchmarks that passes, in points.
        gate_min_gain: smallest gain of the target metric over all domains that passes, in points.
        gate_settings: tiers, margins and looks of the gate.
        merge_weights: weight of each domain in the merge, as billing=0.7, tickets=0.3; empty: the same for all, together 1.
        publish: register the model when the gate passes.
        publish_name: name of the registered model.
        run_settings: revision of the base, merge method and strength, registry and tracking.
        score_benchmarks: lm-eval task names, separated by commas.
        score_settings: shots, limits, target metric and precision of the scorer.
        train_epochs: passes over each domain's mixture.
        train_learning_rate: peak learning rate; 0 takes the method's own.
        train_method: lora, full, …
        train_settings: adapter shape, schedule, batch and stopping.
    """
    start = resolve(
        base_model=base_model, data_id=data_id, data_replay_share=data_replay_share, data_settings=data_settings,
        gate_max_drop=gate_max_drop, gate_min_gain=gate_min_gain, gate_settings=gate_settings, publish=publish,
        publish_name=publish_name, run_settings=run_settings, score_benchmarks=score_benchmarks, score_settings=score_settings,
        train_epochs=train_epochs, train_learning_rate=train_learning_rate, train_method=train_method, train_settings=train_settings,
    ).set_caching_options(False)  # fmt: skip
    entries = divide(merge_weights=merge_weights, **{name: start.outputs[name] for name in SHARED})
    base = start.outputs["base"]
    with dsl.ParallelFor(entries.output, name="domains") as entry:
        _, tuned, mixed = one_domain(entry)
    merged = combine(
        config=start.outputs["merge"], base=base, merge_weights=merge_weights,
        adapters=dsl.Collected(tuned.outputs["adapter"]), mixtures=dsl.Collected(mixed.outputs["mixture"]),
    )  # fmt: skip
    rows = validate(config=start.outputs["checks"], sources=start.outputs["sources"], base=base).after(entries)
    before = score(config=start.outputs["score"], base=base, dataset=rows.outputs["dataset"]).set_display_name(
        "score-base"
    )
    after = score(
        config=start.outputs["score"], base=base, dataset=rows.outputs["dataset"], model=merged.outputs["model"]
    ).set_display_name("score-candidate")
    judged = judge(
        config=start.outputs["score"], base_scores=before.outputs["scores"], candidate_scores=after.outputs["scores"], dataset=rows.outputs["dataset"],
    )  # fmt: skip
    decision = gate(
        config=start.outputs["gate"], base_scores=judged.outputs["base_judged"], candidate_scores=judged.outputs["candidate_judged"],
        rejects=rows.outputs["rejects"], dataset=rows.outputs["dataset"], recipe=start.outputs["recipe"],
    ).set_caching_options(False)  # fmt: skip
    chain.end(start, decision, merged.outputs["model"])
