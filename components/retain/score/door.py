"""What the pipeline's face and the command line share: settings and a model in, one record per item out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain.artifacts import write_json
from retain.config import parse
from retain.resolve.work import base_folder
from retain.score.config import ScoreConfig
from retain.score.work import score
from retain.steps import numbers, path_of, running, say
from retain.tracking import home, stage

__all__ = ["path_of", "run"]  # the face has one import


def run(
    config: Mapping[str, Any], base: Mapping[str, str], model: str, dataset: str, scores: str, metrics: str, role: str = "", domain: str = "",
) -> dict[str, float]:  # fmt: skip
    """Score ``model``, or ``base`` where it is an empty text; scores are kept for the next run.

    role: base, candidate or repaired (a candidate once more); empty: candidate where a model is given. domain: names the
    stage in the tracker.
    """
    candidate = role != "base" if role else bool(model)
    name = f"score-{role or ('candidate' if candidate else 'base')}"
    with running(name), stage(name, domain=domain) as tracked:
        folder = Path(model) if model else base_folder(base)
        settings = parse(ScoreConfig, config, where="score")
        result = score(
            settings,
            folder,
            Path(scores),
            dataset=Path(dataset) if dataset else None,
            cache=home() / "scores",
            role="candidate" if candidate else "base",
        )
        for task, facts in result.tasks.items():
            say(
                f"  {task:<24} {facts['metric']:<14} {facts['mean']:.4f}  ({facts['n']} items{', known from before' if task in result.cached else ''})"
            )
        means = numbers({task: facts["mean"] for task, facts in result.tasks.items()})
        write_json(Path(metrics), means)
        tracked.metrics({f"{'tuned' if candidate else 'base'}/{task}": mean for task, mean in means.items()})
        tracked.tags({"model_digest": result.model_digest})
    return means
