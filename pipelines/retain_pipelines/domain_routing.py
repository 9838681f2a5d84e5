"""domain-routing: one adapter a domain, kept apart behind a router; the routed whole is gated as it would be served."""

from typing import Any

from kfp import dsl

from retain.divide.component import divide
from retain.judge.component import judge
from retain.merge.component import merge
from retain.merge.config import MergeConfig
from retain.resolve.component import resolve
from retain.route.component import route
from retain.route.config import RouteConfig
from retain.score.component import score
from retain.validate.component import validate
from retain_pipelines.closing import closed
from retain_pipelines.domain_adapters import DEFAULTS, SHARED, one_domain
from retain_pipelines.regression_gate import decide

NAME = "domain-routing"
ROUTE: dict[str, Any] = RouteConfig().as_parameter()
PLAIN: dict[str, Any] = MergeConfig().as_parameter()  # scored as served: the adapter as it was trained, on its base


@dsl.pipeline(
    name=NAME,
    description="One adapter a domain behind a router: measured, gated as one system, ready to be served by vLLM.",
)
@closed
def domain_routing(
    base_model: str = DEFAULTS["base_model"],
    data_id: str = DEFAULTS["data_id"],
    data_replay_share: float = DEFAULTS["data_replay_share"],
    data_settings: dict = DEFAULTS["data_settings"],
    gate_max_drop: float = DEFAULTS["gate_max_drop"],
    gate_min_gain: float = DEFAULTS["gate_min_gain"],
    gate_settings: dict = DEFAULTS["gate_settings"],
    route_settings: dict = ROUTE,
    run_settings: dict = DEFAULTS["run_settings"],
    score_benchmarks: str = DEFAULTS["score_benchmarks"],
    score_settings: dict = DEFAULTS["score_settings"],
    train_epochs: float = DEFAULTS["train_epochs"],
    train_learning_rate: float = DEFAULTS["train_learning_rate"],
    train_method: str = DEFAULTS["train_method"],
    train_settings: dict = DEFAULTS["train_settings"],
) -> None:
    """Train one adapter a domain and a router in front of them.

    Args:
        base_model: URI of the base model (Hugging Face layout or GGUF).
        data_id: URI of the first domain's training rows.
        data_replay_share: share of general rows among the trained tokens of each domain.
        data_settings: the other domains' files (the name of a target source is its domain), checks, template, replay.
        gate_max_drop: largest macro-average drop of the general benchmarks that passes, in points.
        gate_min_gain: smallest gain of the target metric over all domains that passes, in points.
        gate_settings: tiers, margins and looks of the gate.
        route_settings: tag, confidence and features of the router.
        run_settings: revision of the base, and tracking; its merge settings are for domain-adapters.
        score_benchmarks: lm-eval task names, separated by commas.
        score_settings: shots, limits, target metric and precision of the scorer.
        train_epochs: passes over each domain's mixture.
        train_learning_rate: peak learning rate; 0 takes the method's own.
        train_method: lora, …
        train_settings: adapter shape, schedule, batch and stopping.
    """
    start = resolve(
        base_model=base_model, data_id=data_id, data_replay_share=data_replay_share, data_settings=data_settings,
        gate_max_drop=gate_max_drop, gate_min_gain=gate_min_gain, gate_settings=gate_settings, publish=False,
        publish_name=DEFAULTS["publish_name"], run_settings=run_settings, score_benchmarks=score_benchmarks, score_settings=score_settings,
        train_epochs=train_epochs, train_learning_rate=train_learning_rate, train_method=train_method, train_settings=train_settings,
    ).set_caching_options(False)  # fmt: skip
    entries = divide(merge_weights="", route=route_settings, **{name: start.outputs[name] for name in SHARED})
    base, wanted = start.outputs["base"], start.outputs["score"]
    rows = validate(config=start.outputs["checks"], sources=start.outputs["sources"], base=base).after(entries)
    before = score(config=wanted, base=base, dataset=rows.outputs["dataset"]).set_display_name("score-base")
    with dsl.ParallelFor(entries.output, name="domains") as entry:
        part, tuned, mixed = one_domain(entry)
        merged = merge(config=PLAIN, base=part.outputs["base"], adapter=tuned.outputs["adapter"], domain=part.outputs["domain"])  # fmt: skip
        after = score(
            config=part.outputs["score"], base=part.outputs["base"], dataset=rows.outputs["dataset"], model=merged.outputs["model"],
            domain=part.outputs["domain"],
        ).set_display_name("score-candidate")  # fmt: skip
    routed = route(
        config=route_settings, score=wanted, dataset=rows.outputs["dataset"], base_scores=before.outputs["scores"],
        adapters=dsl.Collected(tuned.outputs["adapter"]), mixtures=dsl.Collected(mixed.outputs["mixture"]),
        scores=dsl.Collected(after.outputs["scores"]),
    )  # fmt: skip
    judged = judge(
        config=wanted, base_scores=before.outputs["scores"], candidate_scores=routed.outputs["routed"], dataset=rows.outputs["dataset"],
    )  # fmt: skip
    decide(start.outputs["gate"], judged.outputs["base_judged"], judged.outputs["candidate_judged"])
