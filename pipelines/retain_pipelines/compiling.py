"""Pipelines as IR YAML: the same object that a laptop runs is what a cluster gets."""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import yaml

from retain.config import nearest
from retain.errors import ConfigError

if TYPE_CHECKING:
    from retain.resolve.recipe import Recipe
    from retain_pipelines.pods import Images
    from retain_pipelines.profile import Profile

PIPELINES = {
    "finetune-without-forgetting": "retain_pipelines.finetune:finetune",
    "domain-adapters": "retain_pipelines.domain_adapters:domain_adapters",
    "domain-routing": "retain_pipelines.domain_routing:domain_routing",
    "regression-gate": "retain_pipelines.regression_gate:regression_gate",
    "retrain": "retain_pipelines.retrain:retrain",
}


def spec_of(pipeline: Any) -> dict[str, Any]:
    """The compiled pipeline spec as a dict (the platform spec, where there is one, is the second document)."""
    return documents(pipeline)[0]


def documents(pipeline: Any) -> list[dict[str, Any]]:
    """What ``kfp.compiler`` writes to a file, keys sorted; without the file, whose YAML costs more time than all the rest."""
    from google.protobuf.json_format import MessageToJson

    platforms = [pipeline.platform_spec] if pipeline.platform_spec.platforms else []
    return [json.loads(MessageToJson(spec, sort_keys=True)) for spec in (pipeline.pipeline_spec, *platforms)]


def load(name: str) -> Any:
    """A pipeline object by its name."""
    import importlib

    module, _, attribute = PIPELINES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def check_name(name: str) -> str:
    """``name``, if there is such a pipeline."""
    if name not in PIPELINES:
        near = nearest(name, list(PIPELINES))
        raise ConfigError("there is no such pipeline", got=name, expected=", ".join(PIPELINES), fix=f"did you mean '{near}'?" if near else "")  # fmt: skip
    return name


def with_profile(name: str, profile: "Profile", taken: "Images", recipe: "Recipe") -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """(pipeline spec, platform spec) of a pipeline on one cluster; the recipe says which pods it needs."""
    from retain_pipelines.pods import dressed

    environment = {"MLFLOW_EXPERIMENT_NAME": recipe.tracking.experiment}
    spec, platform = documents(dressed(load(name), profile, taken, recipe, environment=environment))
    return (with_choices(spec) if profile.form_choices else spec), platform


def with_choices(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with the words that a parameter can be, which the run form shows as a list to choose from.

    KFP's proto has them (``literals``), its SDK cannot write them. A server older than 2.16 refuses the spec.
    """
    patched = copy.deepcopy(spec)
    for name, entry in patched["root"]["inputDefinitions"]["parameters"].items():
        if words := choices(name):
            entry["literals"] = words
    return patched


def without_cache(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with no task that takes an earlier run's results."""
    patched = copy.deepcopy(spec)
    for dag in (patched["root"], *patched["components"].values()):
        for task in dag.get("dag", {}).get("tasks", {}).values():
            task["cachingOptions"] = {}
    return patched


def choices(parameter: str) -> list[str]:
    """The words that a headline parameter can be, from the type of its setting; none where any text will do."""
    from retain.resolve.form import HEADLINES
    from retain.resolve.recipe import Recipe

    kind: Any = Recipe
    for part in HEADLINES.get(parameter, "").split("."):
        if part not in getattr(kind, "model_fields", {}):
            return []
        kind = kind.model_fields[part].annotation
    return list(get_args(kind)) if get_origin(kind) is Literal else []


def form_page(spec: dict[str, Any]) -> str:
    """What the run form shows above its fields, as Markdown: the form itself tells no parameter's meaning."""
    lines = [
        f"- `{name}`: {entry['description']}" for name, entry in spec["root"]["inputDefinitions"]["parameters"].items()
    ]
    dicts = (
        "A settings dict takes any setting of its stage by its dotted path; all of them are checked in the first task."
    )
    return "\n".join([spec["pipelineInfo"]["description"], "", *lines, "", dicts])


def compile_all(folder: Path) -> list[Path]:
    """Write every pipeline's kept IR; without kfp's header comment, which changes at every compile."""
    return [_written(folder, name, documents(load(name))) for name in PIPELINES]


def compile_for(folder: Path, profile: "Profile", taken: "Images", recipe: "Recipe") -> list[Path]:
    """Write every pipeline as one cluster gets it."""
    return [_written(folder, name, list(with_profile(name, profile, taken, recipe))) for name in PIPELINES]


def _written(folder: Path, name: str, found: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(as_yaml(found), encoding="utf-8")
    return path


def as_yaml(found: list[dict[str, Any]]) -> str:
    """One file with all documents, as a KFP server takes it."""
    text: str = yaml.safe_dump_all(found, sort_keys=True, allow_unicode=True, width=120)
    return text
