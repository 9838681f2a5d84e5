"""What the pipeline's face and the command line share: a filled form in, two pinned models and their settings out."""

from collections.abc import Mapping
from typing import Any

from retain.pair.work import pair
from retain.resolve.door import score_settings
from retain.steps import running, say
from retain.tracking import parent


def run(form: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any], str]:
    """base, candidate, score, gate, data: the outputs of the first task, in the order its face names them."""
    with running("pair"):
        found = pair(form)
        recipe = found.recipe
        parent().params({"base": found.base, "candidate": found.candidate, "score": recipe.score.as_parameter(), "gate": recipe.gate.as_parameter()})  # fmt: skip
        for name, model in (("base", found.base), ("candidate", found.candidate)):
            say(f"{name:<10}{model['uri']}  {model['digest'][:19]}")
        say(f"gate      it can see an average drop of {found.gate_plan.detectable_points:g} points")
    return found.base, found.candidate, score_settings(recipe).as_parameter(), recipe.gate.as_parameter(), found.data
