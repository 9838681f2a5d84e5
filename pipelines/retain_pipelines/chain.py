"""What the pipelines with a training have in common: from rows to a merged candidate, and the ends of a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from retain.compress.component import compress
from retain.compress.config import NONE
from retain.merge.component import merge
from retain.mix.component import mix
from retain.publish.component import publish
from retain.rehearse.component import rehearse
from retain.repair.component import repair
from retain.score.component import score
from retain.stop.component import stop
from retain.template.component import template
from retain.train.component import train
from retain.validate.component import validate
from retain_pipelines.endings import STOPS

MENDABLE = ("stop-regressed", "stop-inconclusive")  # what a gate that asked for a repair would have ended in


@dataclass(frozen=True)
class Learned:
    """The tasks of one training, by what they made."""

    rows: Any
    tokens: Any
    mixed: Any
    tuned: Any

    def shown(self) -> dict[str, Any]:
        """What the report shows beside the scores."""
        return {
            "history": self.tuned.outputs["history"], "rejects": self.rows.outputs["rejects"], "mixture": self.mixed.outputs["mixture"],
            "preview": self.tokens.outputs["preview"], "dataset": self.rows.outputs["dataset"],
        }  # fmt: skip


@dataclass(frozen=True)
class Made(Learned):
    """A training with its merged candidate."""

    merged: Any


def learned(start: Any, base: Any, **named: Any) -> Learned:
    """Validate, rehearse, template, mix and train.

    ``start``: the task whose outputs are the steps' settings; ``base``: the model that the training starts from;
    ``named``: the domain, in a run with several.
    """
    rows = validate(config=start.outputs["checks"], sources=start.outputs["sources"], base=base, **named)
    written = rehearse(config=start.outputs["rehearse"], base=base, dataset=rows.outputs["dataset"], **named)
    tokens = template(
        config=start.outputs["template"], base=base, dataset=rows.outputs["dataset"], generated=written.outputs["generated"], **named,
    )  # fmt: skip
    mixed = mix(config=start.outputs["mix"], score=start.outputs["score"], rendered=tokens.outputs["rendered"], **named)
    tuned = train(config=start.outputs["train"], base=base, mixture=mixed.outputs["mixture"], **named)
    return Learned(rows, tokens, mixed, tuned)


def made(start: Any, base: Any) -> Made:
    """A training and the merge of what it learned into ``base``."""
    done = learned(start, base)
    merged = merge(config=start.outputs["merge"], base=base, adapter=done.tuned.outputs["adapter"])
    return Made(done.rows, done.tokens, done.mixed, done.tuned, merged)


@dataclass(frozen=True)
class Smaller:
    """The form in which a model that passed is gated again and published, where a run asks for one.

    ``method``: the pipeline's parameter; ``decide(scoring, role=…)``: the gate on the scores of that form.
    """

    method: Any
    dataset: Any
    decide: Callable[..., Any]

    def end(self, start: Any, model: Any) -> None:
        """Compress the model, and end the run as that candidate deserves."""
        form = compress(config=start.outputs["compress"], model=model).outputs["compressed"]
        scored = score(
            config=start.outputs["score"], base=start.outputs["base"], dataset=self.dataset, model=form, role="compressed",
        ).set_display_name("score-compressed")  # fmt: skip
        end(start, self.decide(scored, role="compressed").set_display_name("gate-compressed"), form)


def end(start: Any, decision: Any, model: Any, smaller: Smaller | None = None) -> None:
    """Publish the model where the gate let it pass, or gate the smaller form first; else the stop that belongs to the verdict."""
    with dsl.If(decision.outputs["Output"] == "publish", name="passed"):
        if smaller is None:
            _publish(start, decision, model)
        else:
            with dsl.If(smaller.method == NONE, name="as-it-is"):
                _publish(start, decision, model)
            with dsl.If(smaller.method != NONE, name="smaller"):
                smaller.end(start, model)
    stops(decision.outputs["Output"], decision, STOPS)


def _publish(start: Any, decision: Any, model: Any) -> None:
    publish(
        config=start.outputs["publish"], model=model, verdict=decision.outputs["verdict"], recipe=start.outputs["recipe"],
    ).set_caching_options(False).set_display_name("publish")  # fmt: skip


def mend(
    start: Any, base: Any, done: Made, decision: Any, *, before: Any, after: Any, decide: Callable[..., Any], recipe: Any,
    smaller: Smaller | None = None,
) -> None:  # fmt: skip
    """The branch of a gate that asked for a repair: a weaker model, scored and gated once more, or the stop.

    ``base``: what was trained and merged; ``before``, ``after``: the scorings of the original base and of the refused
    candidate; ``decide(scoring, …)``: the gate on the new one's.
    """
    with dsl.If(decision.outputs["Output"] == "repair", name="closed"):
        weaker = repair(
            config=start.outputs["repair"], merging=start.outputs["merge"], base=base, adapter=done.tuned.outputs["adapter"],
            gated=done.merged.outputs["model"], verdict=decision.outputs["verdict"], base_scores=before.outputs["scores"],
            candidate_scores=after.outputs["scores"], recipe=recipe, **done.shown(),
        )  # fmt: skip
        with dsl.If(weaker.outputs["Output"] == "retry", name="retry"):
            again = score(
                config=start.outputs["score"], base=start.outputs["base"], dataset=done.rows.outputs["dataset"], model=weaker.outputs["model"],
                role="repaired",
            ).set_display_name("score-repaired")  # fmt: skip
            second = decide(again, role="repaired", first=decision.outputs["verdict"], sweep=weaker.outputs["sweep"])
            end(start, second.set_display_name("gate-repaired"), weaker.outputs["model"], smaller)
        stops(weaker.outputs["Output"], decision, MENDABLE)


def stops(ending: Any, decision: Any, names: tuple[str, ...]) -> None:
    """The ends that publish nothing, each under its own name."""
    for name in names:
        with dsl.If(ending == name, name=name):
            stop(verdict=decision.outputs["verdict"]).set_caching_options(False).set_display_name(name)
