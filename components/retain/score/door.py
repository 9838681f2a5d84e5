"""What the pipeline's face and the command line share: settings and a model in, one record per item out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from retain import weights
from retain.artifacts import read_scores, write_json
from retain.config import parse
from retain.errors import UsageError
from retain.resolve.work import base_folder
from retain.score.config import ScoreConfig
from retain.score.run import Role
from retain.score.work import Decided, ScoreResult, score
from retain.steps import numbers, path_of, running, say
from retain.tracking import home, stage

__all__ = ["path_of", "run"]  # the face has one import

WATCHED = ("candidate", "repaired")  # compared with the base on general text


def run(
    config: Mapping[str, Any], base: Mapping[str, str], model: str, dataset: str, scores: str, metrics: str, role: str = "", domain: str = "",
    policy: Mapping[str, Any] | None = None, baseline: str = "", champion: str = "",
) -> dict[str, float]:  # fmt: skip
    """Score ``model``, or ``base`` where it is an empty text; scores are kept for the next run.

    role: base, champion, candidate, repaired or compressed (a candidate once more); empty: candidate where a model is given. domain:
    names the stage in the tracker. policy: of the gate; with its looks (and the scores ``baseline``, and in a retraining
    ``champion``) scoring ends as soon as its rule has decided.
    """
    part = _role(role or ("candidate" if model else "base"))
    name = f"score-{part}"
    with running(name), stage(name, domain=domain) as tracked:
        folder = weights.whole(Path(model)) if model else base_folder(base)
        settings = parse(ScoreConfig, config, where="score")
        result = score(
            settings,
            folder,
            Path(scores),
            dataset=Path(dataset) if dataset else None,
            cache=home() / "scores",
            role=part,
            decided=_decider(settings, policy or {}, baseline, champion),
            base=base if part in WATCHED else None,
        )
        means = _told(result)
        if result.left:
            say(f"  decided before the end: {result.left} items need not be scored ({100 * result.left / (result.left + result.items):.0f} %)")  # fmt: skip
            tracked.metrics({"items_not_scored": result.left})
        if result.signals:
            say(_moved(result.signals))
            tracked.metrics({f"general_text/{name}": value for name, value in numbers(dict(result.signals)).items()})
        if result.signals_left_out:
            say(f"  general text is not compared: {result.signals_left_out}")
        write_json(Path(metrics), means)
        tracked.metrics(
            {f"{part if part in ('base', 'champion') else 'tuned'}/{task}": mean for task, mean in means.items()}
        )
        tracked.tags({"model_digest": result.model_digest})
    return means


def preview(config: Mapping[str, Any], model: str, adapter: str, dataset: str, base_scores: str, scores: str) -> dict[str, dict[str, float]]:  # fmt: skip
    """Score ``model`` with ``adapter`` in it, a preview that no gate takes, and where ``base_scores`` is named without it, in one load."""
    from retain.score.preview import Preview

    with running("score-preview"):
        settings = parse(ScoreConfig, config, where="score")
        both = Preview(settings, Path(model), Path(adapter), dataset=Path(dataset) if dataset else None, cache=home() / "scores")  # fmt: skip
        found = {}
        if base_scores:
            say("base")
            found["base"] = _told(both.base(Path(base_scores)))
        say("with the adapter")
        found["candidate"] = _told(both.tuned(Path(scores)))
    return found


def _moved(found: Mapping[str, float]) -> str:
    """One line on what general text became less likely."""
    from retain.gate.config import RISE_NATS

    line = f"  general text: cross-entropy {found['rise']:+.4f} nats a token, KL from the base {found['kl']:.4f} ({found['tokens']} tokens)"  # fmt: skip
    return f"{line}\n  that is more than a well-tuned adapter costs ({RISE_NATS} nats): look at what was forgotten" if found["rise"] > RISE_NATS else line  # fmt: skip


def _told(result: ScoreResult) -> dict[str, float]:
    """The mean of each benchmark, shown as a table."""
    for task, facts in result.tasks.items():
        known = ", known from before" if task in result.cached else ""
        say(f"  {task:<24} {facts['metric']:<14} {facts['mean']:.4f}  ({facts['n']} items{known})")
    return numbers({task: facts["mean"] for task, facts in result.tasks.items()})


def _role(name: str) -> Role:
    """UsageError for a part that no model plays."""
    for part in get_args(Role):
        if part == name:
            return cast(Role, part)
    raise UsageError("no such part in a comparison", where="role", got=name, expected=", ".join(get_args(Role)))


def _decider(config: ScoreConfig, policy: Mapping[str, Any], baseline: str, champion: str) -> Decided | None:
    """What to ask after each round; None where all items are scored in any case."""
    if config.rounds == 1 or not baseline:
        return None
    from retain.gate.config import GatePolicy
    from retain.gate.early import decider

    served = read_scores(Path(champion)) if champion else None
    return decider(parse(GatePolicy, policy, where="gate"), read_scores(Path(baseline)), served)
