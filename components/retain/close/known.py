"""What is known of a run when it has ended: its tags from this home's journal and from the tracker, and where to look."""

import os
import sys
from dataclasses import dataclass
from typing import Any

from retain import tracking
from retain.sender import PIPELINE


@dataclass(frozen=True)
class Known:
    """Tags of the parent run (the verdict among them), and its page in the tracker's UI; both empty where nobody knows."""

    tags: dict[str, str]
    url: str = ""


def known(run: str) -> Known:
    """The tracker's word, and over it what this home said last; a tracker that is away is said on stderr."""
    asked = Known({}) if os.environ.get("RETAIN_TRACKING") == "later" else _asked(run)
    return Known({**asked.tags, **_kept(run)}, asked.url)


def _kept(run: str) -> dict[str, str]:
    lines = tracking.parent(run=run).journal.lines()
    return {key: str(value) for line in lines if line["what"] == "tags" for key, value in line["values"].items()}


def _asked(run: str) -> Known:
    try:
        found = _parent_run(tracking.client(), run)
    except tracking.away_errors() as error:
        sys.stderr.write(
            f"close: the tracker was not reached ({type(error).__name__}); the verdict may be missing here\n"
        )
        return Known({})
    if found is None:
        return Known({})
    return Known(dict(found.data.tags), _page(found.info.experiment_id, found.info.run_id))


def _parent_run(mlflow: Any, run: str) -> Any | None:
    experiment = mlflow.get_experiment_by_name(os.environ.get("MLFLOW_EXPERIMENT_NAME") or "retain")
    if experiment is None:
        return None
    name = run.replace("'", "_")  # MLflow's query language has no escape for a quote
    query = f"tags.`retain.run_id` = '{name}' and tags.`retain.stage` = '{PIPELINE}'"
    found = mlflow.search_runs([experiment.experiment_id], query)
    return min(found, key=lambda entry: entry.info.start_time, default=None)


def _page(experiment: str, run: str) -> str:
    """Where a person reads the run: RETAIN_MLFLOW_UI, the address from outside, or the tracker's own."""
    place = os.environ.get("RETAIN_MLFLOW_UI") or tracking.tracking_uri()
    return f"{place.rstrip('/')}/#/experiments/{experiment}/runs/{run}" if place.startswith("http") else ""
