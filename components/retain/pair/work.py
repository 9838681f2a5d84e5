"""Two models and how they are compared, pinned before anything is spent."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain import uris
from retain.artifacts import check_writable, read_json
from retain.errors import ConfigError
from retain.plan.gate import GatePlan, check
from retain.publish import lineage
from retain.resolve.form import from_form
from retain.resolve.recipe import Recipe
from retain.resolve.work import counted_by, data_of, plan_the_gate
from retain.tracking import home

# What a comparison without a training cannot have: no rows that measure a target, and no change that could be weakened.
WITHOUT_TARGET = {
    "gate_settings": {"target.rule": "none", "on_fail": "stop"},
    "score_settings": {"target.metric": "none"},
}


@dataclass(frozen=True)
class Paired:
    """The two models by content, and the checked settings (of the recipe only score and gate are used)."""

    base: dict[str, str]  # uri, revision, digest
    candidate: dict[str, str]
    recipe: Recipe
    gate_plan: GatePlan
    data: str  # digest of what the candidate learned, by which its attempts are counted; empty: not known


def pair(form: Mapping[str, Any]) -> Paired:
    """Fetch and digest both models; refuse settings that are wrong, and a gate that could not conclude (2)."""
    recipe = settings(form)
    check_writable(home())
    (_, base), (folder, candidate) = (_pinned(form[f"{side}_model"], form[f"{side}_revision"], side) for side in ("base", "candidate"))  # fmt: skip
    return Paired(base, candidate, recipe, check(plan_the_gate(recipe)), _learned(form["candidate_data"], folder))


def settings(form: Mapping[str, Any]) -> Recipe:
    """Scorer and gate as a recipe says them: the same keys, the same checks, the same words for a mistake."""
    merged = {name: {**dict(form[name] or {}), **fixed} for name, fixed in WITHOUT_TARGET.items()}
    for name, fixed in WITHOUT_TARGET.items():
        for key, value in fixed.items():
            if (form[name] or {}).get(key, value) != value:
                raise ConfigError(f"{name}: '{key}' can only be '{value}' here", got=form[name][key], fix="compare on benchmarks; a target and a repair need a training recipe")  # fmt: skip
    # train_method: how the candidate was trained is not known; a full tune flips the most items, so it is planned for.
    shared = {
        "base_model": form["base_model"] or "-",
        "data_id": "-",
        "data_settings": {"datasets.0.split": "train"},
        "train_method": "full",
    }
    heads = {name: form[name] for name in ("gate_max_drop", "score_benchmarks")}
    return from_form({**shared, **heads, **merged})


def _learned(named: str, candidate: Path) -> str:
    """Two candidates of other data are no attempts of each other: as named, else as the candidate's own lineage says."""
    file = candidate / "lineage.json"
    if named or not file.is_file():
        return data_of(named)
    return counted_by(lineage.target_data(lineage.from_dict(read_json(file, schema=lineage.SCHEMA))))


def _pinned(uri: str, revision: str, side: str) -> tuple[Path, dict[str, str]]:
    if not uri:
        raise ConfigError(f"{side}_model is empty", expected="the URI of a model: a folder, s3://, hf://, oci://, mlflow://")  # fmt: skip
    folder, digest = uris.resolve_base(uri, revision, home() / "bases")
    return folder, {"uri": uri, "revision": revision, "digest": digest}
