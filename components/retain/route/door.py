"""What the pipeline's face and the command line share: adapters by domain and their scores in, a router, its scores and its manifest out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retain.artifacts import write_json
from retain.combine.work import by_domain
from retain.config import parse
from retain.route.config import RouteConfig
from retain.route.work import Routed, route
from retain.score.config import ScoreConfig
from retain.steps import numbers, running, say
from retain.tracking import stage


def run(
    config: Mapping[str, Any], score: Mapping[str, Any], dataset: str, adapters: Mapping[str, str], base_scores: str, scores: Mapping[str, str], out: str, routed: str,
) -> Routed:  # fmt: skip
    with running("route"), stage("route") as tracked:
        result = route(
            parse(RouteConfig, config, where="route"), parse(ScoreConfig, score, where="score"), Path(dataset),
            {name: Path(path) for name, path in adapters.items()}, Path(base_scores), {name: Path(path) for name, path in scores.items()}, Path(out), Path(routed),
        )  # fmt: skip
        say(f"routing accuracy {100 * result.accuracy:.1f} % (always the commonest: {100 * result.majority:.1f} %)")
        say(f"general items that no adapter touches: {100 * result.general_to_base:.1f} %")
        for name, facts in result.domains.items():
            say(f"  {name:<20} {facts.rows:>5} rows  base {100 * facts.base:.1f}  own adapter {100 * facts.own_adapter:.1f}  routed {100 * facts.routed:.1f}  ({facts.gain_points:+.1f} points)")  # fmt: skip
        gains = {f"gain_points/{name}": facts.gain_points for name, facts in result.domains.items()}
        tracked.metrics({"routing_accuracy": result.accuracy, "general_to_base": result.general_to_base, **gains})
        return result
    raise AssertionError("unreachable: running() leaves on every error")


def run_step(
    config: Mapping[str, Any], score: Mapping[str, Any], dataset: Any, base_scores: Any, adapters: Sequence[Any], mixtures: Sequence[Any],
    scores: Sequence[Any], routes: Any, routed: Any, metrics: Any,
) -> None:  # fmt: skip
    """The same on artifacts of a loop, in any order: an adapter names its mixture, scores carry their domain as metadata."""
    found = by_domain([Path(a.path) for a in adapters], [Path(m.path) for m in mixtures])
    by_name = {entry.metadata["domain"]: entry.path for entry in scores}
    result = run(config, score, dataset.path, {name: str(path) for name, path in found.items()}, base_scores.path, by_name, routes.path, routed.path)  # fmt: skip
    facts = numbers({"accuracy": result.accuracy, "majority": result.majority, "general_to_base": result.general_to_base} | {f"gain_points/{name}": d.gain_points for name, d in result.domains.items()})  # fmt: skip
    write_json(Path(metrics.path), facts)
    metrics.metadata.update(facts)
