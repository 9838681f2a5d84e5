"""What the pipeline's face and the command line share: the resolved run in, one entry a domain out."""

from collections.abc import Mapping
from typing import Any

from retain.config import parse
from retain.divide.work import divide, domains, weights
from retain.route.config import RouteConfig
from retain.steps import running, say


def run(
    merge_weights: str, sources: list[dict[str, Any]], route: Mapping[str, Any], **settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """settings: base, checks, rehearse, template, mix, score and train, as ``resolve`` gives them."""
    with running("divide"):
        parse(RouteConfig, route, where="route_settings")
        found = weights(merge_weights, domains(sources))
        for name, weight in found.items():
            say(f"{name:<24} weight {weight:g}")
        return divide(sources, settings)
    raise AssertionError("unreachable: running() leaves on every error")
