"""regression-gate: two models by their addresses, scored on the same items and judged; nothing is trained or published."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl

from retain.gate.component import gate
from retain.judge.component import judge
from retain.pair.component import pair
from retain.pair.work import WITHOUT_TARGET
from retain.resolve.form import short_form, to_form
from retain.resolve.recipe import Recipe, load
from retain.score.component import score
from retain.stop.component import stop
from retain_pipelines.closing import closed
from retain_pipelines.endings import STOPS

NAME = "regression-gate"


def _without_target(form: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The form's two settings dicts, with what a target had in them replaced by the word that there is none."""
    plain = {name: {k: v for k, v in form[name].items() if not k.startswith("target.")} for name in WITHOUT_TARGET}
    return {name: {**values, **WITHOUT_TARGET[name]} for name, values in plain.items()}


def arguments(recipe: Recipe, candidate: str, revision: str = "") -> dict[str, Any]:
    """Every argument in full: the recipe's base, benchmarks and policy, and the candidate."""
    form = to_form(recipe)
    return {
        "base_model": recipe.model.base_model, "base_revision": recipe.model.revision, "candidate_model": candidate,
        "candidate_revision": revision, "candidate_data": "", "gate_max_drop": form["gate_max_drop"], "score_benchmarks": form["score_benchmarks"],
        **_without_target(form),
    }  # fmt: skip


def decide(config: Any, base_scores: Any, candidate_scores: Any, data: Any = "") -> None:
    """The gate and the task that the run ends in, inside a pipeline; ``data``: what its attempts are counted by."""
    decision = gate(config=config, base_scores=base_scores, candidate_scores=candidate_scores, data=data).set_caching_options(False)  # fmt: skip
    for name in ("passed", *STOPS):
        with dsl.If(decision.outputs["Output"] == ("publish" if name == "passed" else name), name=name):
            stop(verdict=decision.outputs["verdict"]).set_caching_options(False).set_display_name(name)


_SHORT = short_form(load("quickstart"))
DEFAULTS: dict[str, Any] = {**_SHORT, **_without_target(_SHORT)}


@dsl.pipeline(
    name=NAME,
    description="Has a model forgotten something? Two models by address, scored on the same items and judged: pass, regressed or inconclusive.",
)
@closed
def regression_gate(
    base_model: str = DEFAULTS["base_model"],
    base_revision: str = "",
    candidate_model: str = DEFAULTS["base_model"],
    candidate_revision: str = "",
    candidate_data: str = "",
    gate_max_drop: float = DEFAULTS["gate_max_drop"],
    gate_settings: dict = DEFAULTS["gate_settings"],
    score_benchmarks: str = DEFAULTS["score_benchmarks"],
    score_settings: dict = DEFAULTS["score_settings"],
) -> None:
    """Compare two models.

    Args:
        base_model: URI of the model that is the measure.
        base_revision: 40-hex commit of a hub model; empty for places that have none.
        candidate_model: URI of the model that is judged; by default the base itself, which must pass.
        candidate_revision: the same for the candidate.
        candidate_data: URIs or digests of the rows that the candidate learned, separated by commas; candidates of the same rows are attempts of each other. Empty: as the candidate's lineage says.
        gate_max_drop: largest macro-average drop of the benchmarks that passes, in points.
        gate_settings: tiers, margins and looks of the gate.
        score_benchmarks: lm-eval task names, separated by commas.
        score_settings: shots, limits and precision of the scorer.
    """
    start = pair(
        base_model=base_model, base_revision=base_revision, candidate_model=candidate_model, candidate_revision=candidate_revision,
        candidate_data=candidate_data, gate_max_drop=gate_max_drop, gate_settings=gate_settings, score_benchmarks=score_benchmarks, score_settings=score_settings,
    ).set_caching_options(False)  # fmt: skip
    before = score(config=start.outputs["score"], base=start.outputs["base"], role="base").set_display_name(
        "score-base"
    )
    after = score(
        config=start.outputs["score"], base=start.outputs["candidate"], role="candidate", policy=start.outputs["gate"], baseline=before.outputs["scores"],
    ).set_display_name("score-candidate")  # fmt: skip
    judged = judge(
        config=start.outputs["score"],
        base_scores=before.outputs["scores"],
        candidate_scores=after.outputs["scores"],
    )
    decide(
        start.outputs["gate"], judged.outputs["base_judged"], judged.outputs["candidate_judged"], start.outputs["data"]
    )
