"""Route: one base, one adapter a domain, and a router in front; measured, composed into scores, and written down to be served."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retain import digest
from retain.artifacts import read_json, write_json
from retain.errors import ConfigError, IntegrityError
from retain.route import prompts, router
from retain.route.compose import Tables, compose
from retain.route.config import RouteConfig
from retain.route.router import BASE, Router
from retain.score.config import TARGET_TASK, ScoreConfig

SCHEMA = "retain.routes/1"


@dataclass(frozen=True)
class Domain:
    """One domain's test rows: how many, the share that was routed right, and their mean score (0 to 1) by each way to answer."""

    rows: int
    routed_right: float
    base: float
    own_adapter: float
    routed: float

    @property
    def gain_points(self) -> float:
        """What routing gains over the base."""
        return 100 * (self.routed - self.base)


@dataclass(frozen=True)
class Routed:
    """accuracy: share of test rows that found their domain; majority: what always saying the commonest one would get.
    general_to_base: share of benchmark items that no adapter touches. confusion: 'domain>adapter' → rows."""

    accuracy: float
    majority: float
    general_to_base: float
    domains: dict[str, Domain]
    confusion: dict[str, int]
    model_digest: str


def route(
    config: RouteConfig, score: ScoreConfig, dataset: Path, adapters: Mapping[str, Path], base_scores: Path, scores: Mapping[str, Path], out: Path, routed: Path,
) -> Routed:  # fmt: skip
    """Train the router on the dataset's train rows, measure it on its test rows, and write ``out`` (router, routes.json)
    and ``routed``, the scores of the whole.

    adapters, scores: by domain; scores of base + that adapter on all items. ConfigError (2) for domains that do not match the
    dataset's; IntegrityError (6) for adapters of another base, or scores of other items.
    """
    rows = list(prompts.rows(dataset))
    _same_domains(rows, adapters, scores)
    known = [row for row in rows if row.split == "train"]
    made = router.train(config, [row.prompt for row in known], [row.adapter for row in known])
    sha = made.save(out)
    cards = _adapters(adapters)
    tables = Tables(base_scores, scores)
    model = digest.of_json({"base": tables.meta[BASE]["model_digest"], "router": sha, "adapters": {name: card["digest"] for name, card in cards.items()}})  # fmt: skip
    chosen = _choices(made, prompts.items(score, dataset))
    compose(tables, chosen, model, routed)
    result = _measured(rows, tables, chosen, model)
    write_json(out / "routes.json", _manifest(config, result, tables, sha, cards))
    return result


def _same_domains(rows: Sequence[prompts.Row], adapters: Mapping[str, Path], scores: Mapping[str, Path]) -> None:
    there = {row.adapter for row in rows if row.split == "train"} - {BASE}
    for name, given in (("adapter", set(adapters)), ("scores", set(scores))):
        if given != there:
            raise ConfigError(f"--{name}: one for each domain of the dataset", got=", ".join(sorted(given)) or "none", expected=", ".join(sorted(there)))  # fmt: skip


def _adapters(adapters: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    cards = {name: read_json(path / "retain.json", schema="retain.adapter/1") for name, path in adapters.items()}
    if whole := [name for name, path in adapters.items() if not (path / "adapter_config.json").is_file()]:
        raise ConfigError(f"'{whole[0]}' is no adapter but changed weights: it cannot share a base with others", where=str(adapters[whole[0]]), fix="train with method: lora, or merge the domains (domain-adapters)")  # fmt: skip
    if len(bases := {card["base_digest"] for card in cards.values()}) > 1:
        raise IntegrityError("these adapters have different bases", got=", ".join(sorted(bases)), expected="one base behind all of them")  # fmt: skip
    return {
        name: {"digest": card["adapter_digest"], "base_digest": card["base_digest"]} for name, card in cards.items()
    }


def _choices(made: Router, items: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], str]:
    return {key: choice.adapter for key, choice in zip(items, made.choose(list(items.values())), strict=True)}


def _measured(rows: Sequence[prompts.Row], tables: Tables, chosen: Mapping[tuple[str, str], str], model: str) -> Routed:
    tests = [row for row in rows if row.split == "test" and row.adapter != BASE]
    found = Counter((row.adapter, chosen[TARGET_TASK, row.id]) for row in tests)
    right = sum(count for (domain, adapter), count in found.items() if domain == adapter)
    commonest = max(Counter(row.adapter for row in tests).values(), default=0)
    general = [adapter for (task, _), adapter in chosen.items() if task != TARGET_TASK]
    domains = {name: _domain(name, [row for row in tests if row.adapter == name], tables, chosen) for name in sorted({row.adapter for row in tests})}  # fmt: skip
    return Routed(
        right / max(len(tests), 1), commonest / max(len(tests), 1), general.count(BASE) / max(len(general), 1), domains,
        {f"{domain}>{adapter}": count for (domain, adapter), count in sorted(found.items())}, model,
    )  # fmt: skip


def _domain(name: str, rows: Sequence[prompts.Row], tables: Tables, chosen: Mapping[tuple[str, str], str]) -> Domain:
    keys = {(TARGET_TASK, row.id) for row in rows}
    by_choice = [tables.mean(chosen[key], {key}) for key in keys]
    right = sum(chosen[key] == name for key in keys) / len(rows)
    return Domain(len(rows), right, tables.mean(BASE, keys), tables.mean(name, keys), sum(by_choice) / len(by_choice))


def _manifest(
    config: RouteConfig, result: Routed, tables: Tables, sha: str, cards: Mapping[str, Any]
) -> dict[str, Any]:
    """What a server needs: vLLM's arguments, and the tag or the router that names the adapter of a request (its ``model``)."""
    modules = [f"{name}=/models/{name}" for name in sorted(cards)]
    return {
        "schema": SCHEMA, "model_digest": result.model_digest, "base_digest": tables.meta[BASE]["model_digest"], "router": sha,
        "tag": config.tag, "min_confidence": config.min_confidence, "adapters": dict(sorted(cards.items())),
        "vllm_arguments": ["--enable-lora", "--max-loras", str(len(modules)), "--lora-modules", *modules],
        "measured": {**asdict(result), "scored_models": {name: meta["model_digest"] for name, meta in tables.meta.items()}},
    }  # fmt: skip
