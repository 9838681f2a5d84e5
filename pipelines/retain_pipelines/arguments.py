"""Every argument of a pipeline in full: from the recipe, from --param, or the pipeline's own default."""

from collections.abc import Mapping
from typing import Any

import yaml

from retain.config import nearest
from retain.errors import ConfigError
from retain.resolve.form import HEADLINES, SETTINGS, to_form, without_compression
from retain.resolve.recipe import Recipe
from retain_pipelines import compiling

GATE = "regression-gate"


def complete(pipeline: str, recipe: Recipe, given: list[str] | None = None, candidate: str = "") -> dict[str, Any]:
    """All arguments of ``pipeline``. given: ``NAME=VALUE`` for what no recipe has (merge_weights, a data window).

    ConfigError (2) for an unknown name, for one that the recipe sets, and for a value of another type.
    """
    inputs = compiling.load(compiling.check_name(pipeline)).component_spec.inputs
    if candidate and pipeline != GATE:
        raise ConfigError(f"--candidate is for --pipeline {GATE}", got=candidate)
    extra = _given(inputs, given or [])
    if pipeline == GATE:
        if not candidate:
            raise ConfigError(f"{GATE} needs --candidate", expected="the address of the model that is judged")
        from retain_pipelines.regression_gate import arguments

        return {**arguments(recipe, candidate), **extra}
    whole = to_form(recipe) if "compress_method" in inputs else without_compression(recipe, pipeline)
    form = {name: value for name, value in whole.items() if name in inputs}
    return {**{name: entry.default for name, entry in inputs.items()}, **form, **extra}


def _given(inputs: Mapping[str, Any], given: list[str]) -> dict[str, Any]:
    found = {}
    for entry in given:
        name, mark, text = entry.partition("=")
        if not mark:
            raise ConfigError("--param takes NAME=VALUE", got=entry)
        if name not in inputs:
            near = nearest(name, sorted(inputs))
            hint = (
                ""
                if not near
                else f"did you mean '{near}'?"
                if near in _free(inputs)
                else f"for '{near}', {_in_recipe(near)}"
            )
            raise ConfigError(f"--param {name}: the pipeline has no such parameter", expected=", ".join(sorted(_free(inputs))) or "none at all: the recipe says everything", fix=hint)  # fmt: skip
        if name not in _free(inputs):
            raise ConfigError(f"--param {name}: the recipe says this", fix=_in_recipe(name))
        found[name] = _typed(name, inputs[name].type, text)
    return found


def _in_recipe(name: str) -> str:
    return f"--set {HEADLINES.get(name, 'STAGE.KEY')}=VALUE, or change the recipe"


def _free(inputs: Mapping[str, Any]) -> set[str]:
    """The parameters that no recipe sets."""
    return set(inputs) - set(HEADLINES) - set(SETTINGS)


def _typed(name: str, kind: str, text: str) -> Any:
    """The text as kfp's type of that name; a server refuses a number that comes as text."""
    try:
        if kind == "Integer":
            return int(text)
        if kind == "Float":
            return float(text)
    except ValueError:
        raise ConfigError(f"--param {name}: this is no number", got=text) from None
    if kind == "Dict":
        value = yaml.safe_load(text)
        if not isinstance(value, dict):
            raise ConfigError(f"--param {name}", got=text, expected="{key: value, …}")
        return value
    if kind == "Boolean":
        if text not in ("true", "false"):
            raise ConfigError(f"--param {name}", got=text, expected="true or false")
        return text == "true"
    return text
