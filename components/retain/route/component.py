"""KFP face of the router."""

from typing import List  # noqa: UP035 (kfp reads this form only)

from kfp import dsl

from retain.faces import on_gpu


@on_gpu
def route(
    config: dict,
    score: dict,
    dataset: dsl.Input[dsl.Dataset],
    base_scores: dsl.Input[dsl.Dataset],
    adapters: dsl.Input[List[dsl.Model]],  # noqa: UP006
    mixtures: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    scores: dsl.Input[List[dsl.Dataset]],  # noqa: UP006
    routes: dsl.Output[dsl.Artifact],
    routed: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train a router over the domains, measure it, and give each item the score of the adapter it is sent to.

    Args:
        config: tag, confidence, features.
        score: the benchmarks, whose questions are routed too.
        dataset: checked rows of all domains.
        base_scores: items of the base.
        adapters: one a domain.
        mixtures: what each was trained on; they name the domains.
        scores: items of the base with each adapter.
        routes: router and routes.json, with vLLM's arguments.
        routed: items of the routed system.
        metrics: routing accuracy and each domain's gain.
    """
    from retain.route.door import run_step

    run_step(config, score, dataset, base_scores, adapters, mixtures, scores, routes, routed, metrics)
