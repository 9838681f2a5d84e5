"""What the pipeline's face and the command line share: a filled form in, one settings dict per step out."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain.artifacts import read_json, write_json
from retain.resolve.form import from_form
from retain.resolve.recipe import Recipe
from retain.resolve.room import bytes_needed, check_room
from retain.resolve.work import Resolved, base_folder, resolve
from retain.score.config import ScoreConfig
from retain.steps import running, say
from retain.tracking import home, parent


def run(form: Mapping[str, Any], recipe: str) -> tuple[Any, ...]:
    """The outputs of the first task, in the order its face names them."""
    with running("resolve"):
        wanted = from_form(form)
        tracked = parent()
        tracked.params(wanted.as_parameter())
        tracked.tags({"retain.recipe_digest": wanted.digest()})
        resolved = resolve(wanted)
        if folder := os.environ.get("RETAIN_RUN_DIR"):  # on a cluster every step has a disk of its own
            _check_room(resolved, Path(folder))
        write_recipe(resolved, Path(recipe))
        say(f"base      {resolved.base['uri']}  {resolved.base['digest'][:19]}")
        for source in resolved.sources:
            say(f"{source['part']:<9} {source['path']}  {source['digest'][:19]}  ({source['split']})")
        say(f"recipe    {resolved.recipe.digest()[:19]}")
        plan = resolved.gate_plan
        say(
            f"gate      an unharmed model passes in {100 * plan.power:.0f} % of runs; it can see an average drop of {plan.detectable_points:g} points"
        )
        if plan.word == "weak":
            say(f"          weak: for 95 % the margin would be {plan.margin_for_unharmed:g} points")
    return outputs(resolved)


def _check_room(resolved: Resolved, run: Path) -> None:
    recipe = resolved.recipe
    weights = sum(file.stat().st_size for file in base_folder(resolved.base).glob("*.safetensors"))
    places = {"run": run, "home": home()}
    check_room(places, bytes_needed(weights, recipe.train.method, recipe.publish.enabled and not recipe.publish.store))


def outputs(resolved: Resolved) -> tuple[Any, ...]:
    """base, sources, checks, template, rehearse, mix, train, merge, score, gate, repair, compress, publish: JSON without a null."""
    recipe = resolved.recipe.as_parameter()
    data = recipe["data"]
    rehearse = {**data["rehearse"], "wanted": data["replay"]["source"] == "generated"}
    score = score_settings(resolved.recipe).as_parameter()
    inputs = (resolved.base, resolved.sources, data["checks"], data["template"], rehearse, data["replay"])
    ends = (recipe[name] for name in ("gate", "repair", "compress", "publish"))
    return (*inputs, recipe["train"], recipe["merge"], score, *ends)


def score_settings(recipe: Recipe) -> ScoreConfig:
    """The scorer's settings; its rounds are the looks of the gate, for every model that is scored.

    What a judge says comes after the scoring, so nothing can be decided before all its answers are there.
    """
    looks = 1 if recipe.score.judge.tasks else recipe.gate.looks
    return recipe.score.model_copy(update={"rounds": looks, "rounds_seed": recipe.gate.seed})


def write_recipe(resolved: Resolved, path: Path) -> None:
    """The resolved recipe with its digest, for the report, the card and the registry."""
    value = {
        "schema": "retain.recipe/1",
        "digest": resolved.recipe.digest(),
        "recipe": resolved.recipe.as_parameter(),
        "base": resolved.base,
        "sources": resolved.sources,
    }
    write_json(path, value)


def read_recipe(path: Path) -> tuple[Recipe, dict[str, Any]]:
    """(recipe, the whole file: digest, base and sources)."""
    value = read_json(path, schema="retain.recipe/1")
    return Recipe.model_validate(value["recipe"]), value
