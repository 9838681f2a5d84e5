"""Everything that a run depends on, pinned before anything is spent: URIs become digests, settings become configs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain import digest, models, uris
from retain.artifacts import check_writable, read_json
from retain.errors import ConfigError, IntegrityError
from retain.plan.config import GatePlanConfig
from retain.plan.gate import GatePlan, check, from_last_run, plan_gate
from retain.plan.power import Planned
from retain.resolve.recipe import Recipe
from retain.tracking import home
from retain.train import rules
from retain.train.config import MERGEABLE
from retain.validate.config import DatasetSpec


@dataclass(frozen=True)
class Resolved:
    """A run's inputs by content: what the later steps take instead of names."""

    recipe: Recipe
    base: dict[str, str]  # uri, revision, digest
    sources: list[dict[str, Any]]  # dataset entries, each with the digest of its file
    gate_plan: GatePlan  # what the gate will be able to see


def resolve(recipe: Recipe, *, alone: bool = False) -> Resolved:
    """Fetch and digest the base and every file; refuse what is missing before a GPU is asked for.

    ``alone``: for one step by itself, which may train what no run can merge.
    """
    check_writable(home())
    _check_parts(recipe)
    if not alone and recipe.train.method not in MERGEABLE:
        raise ConfigError(
            "a run merges what it trained, and this method's change cannot become weights", where="train.method", got=recipe.train.method,
            expected=", ".join(MERGEABLE), fix="train it by itself with `retain train` and serve the adapter attached to its base",
        )  # fmt: skip
    folder, base_digest = resolve_base(recipe)
    models.check_folder(folder)
    base = {"uri": recipe.model.base_model, "revision": recipe.model.revision, "digest": base_digest}
    return Resolved(recipe, base, pinned_sources(recipe), check(plan_the_gate(recipe)))


def plan_the_gate(recipe: Recipe) -> GatePlan:
    """The power of the recipe's gate at the items its benchmarks really have.

    The target's rows are not known before validate, so its condition is taken as met.
    """
    from retain.judge import questions

    questions.check(recipe.score, recipe.gate)
    return plan_gate(recipe.gate, benchmarks(recipe))


def benchmarks(recipe: Recipe, last_verdict: str = "") -> list[Planned]:
    """The recipe's benchmarks with the items they really have (an unknown one is refused), and the flips to be expected.

    ``last_verdict``: verdict.json of an earlier run, whose flip rates replace the prior of the method.
    """
    from retain.score.items import gate_items

    items = Counter(item.task for item in gate_items(recipe.score))
    flips = GatePlanConfig().flip_rate(recipe.train.method)
    planned = [Planned(name, count, flips) for name, count in items.items()]
    return from_last_run(planned, read_json(Path(last_verdict), schema="retain.verdict/1")) if last_verdict else planned


def resolve_base(recipe: Recipe) -> tuple[Path, str]:
    """(folder on this machine, digest) of the recipe's base."""
    return uris.resolve_base(recipe.model.base_model, recipe.model.revision, home() / "bases")


def _check_parts(recipe: Recipe) -> None:
    rules.check_recipe(recipe.train)
    if not recipe.data.replay.share and (recipe.train.kl.beta or recipe.train.anchor.kind == "ewc"):
        raise ConfigError(
            "this protection is measured on replay rows, and the recipe asks for none", where="train.kl.beta" if recipe.train.kl.beta else "train.anchor.kind",
            got="data.replay.share: 0", fix="give replay a share, or leave the protection out",
        )  # fmt: skip
    have = {(d.part, d.split) for d in recipe.data.datasets}
    if ("target", "train") not in have:
        raise ConfigError(
            "data.datasets: nothing to learn from",
            expected="an entry with part: target and split: train",
            fix="add the training file",
        )
    if recipe.gate.target.rule != "none" and ("target", "test") not in have:
        raise ConfigError(
            "data.datasets: no rows to measure the target on", expected="an entry with part: target and split: test (200 rows or more, never trained on)",
            fix="add a test file, or set gate.target.rule: none",
        )  # fmt: skip


def pinned_sources(recipe: Recipe) -> list[dict[str, Any]]:
    """The recipe's dataset entries, each with the digest of its file."""
    return [_source(spec) for spec in recipe.data.datasets]


def _source(spec: DatasetSpec) -> dict[str, Any]:
    return {**spec.as_parameter(), "digest": digest.of_file(uris.fetch(spec.path, home() / "files"))}


def target_data(sources: list[dict[str, Any]]) -> str:
    """Digest of what is learned and measured, whatever the order of its files: the gate counts its attempts by it."""
    return counted_by([source["digest"] for source in sources if source["part"] == "target"])


def counted_by(digests: Sequence[str]) -> str:
    """One digest for the target data's files; empty where none is known."""
    return digest.of_json(sorted(digests)) if digests else ""


def data_of(named: str) -> str:
    """As :func:`target_data`, of files named by their addresses or digests, separated by commas."""
    parts = [part.strip() for part in named.split(",") if part.strip()]
    return counted_by([part if part.startswith("sha256:") else uris.digest_of(uris.fetch(part, home() / "files")) for part in parts])  # fmt: skip


def base_folder(base: Mapping[str, str]) -> Path:
    """The base of a run on this machine; its digest must be the one that was resolved."""
    folder, got = uris.resolve_base(base["uri"], base["revision"], home() / "bases")
    if got != base["digest"]:
        raise IntegrityError(
            "the base model changed since the run began",
            where=base["uri"],
            got=got,
            expected=base["digest"],
            fix="pin model.revision and start again",
        )
    return folder


def source_files(sources: list[dict[str, Any]]) -> tuple[list[DatasetSpec], list[Path]]:
    """The dataset entries and their files on this machine; digests must be the resolved ones."""
    specs, paths = [], []
    for source in sources:
        spec = DatasetSpec.model_validate({k: v for k, v in source.items() if k != "digest"})
        path = uris.fetch(spec.path, home() / "files")
        got = digest.of_file(path)
        if got != source["digest"]:
            raise IntegrityError(
                "a data file changed since the run began",
                where=spec.path,
                got=got,
                expected=source["digest"],
                fix="start the run again",
            )
        specs.append(spec)
        paths.append(path)
    return specs, paths
