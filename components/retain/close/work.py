"""The end of a run, whatever it was: the tracker's parent run is closed, and the verdict goes out to who wants to know."""

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from retain import tracking
from retain.close import summary, webhook
from retain.close.known import Known, known
from retain.errors import ExitCode, RetainError

SCHEMA = "retain.ended/1"
GREEN, RED = {"SUCCEEDED", "COMPLETE"}, {"FAILED", "CANCELED", "CANCELLED"}
MOST_REASONS = 20


@dataclass(frozen=True)
class Ended:
    """How a run ended, as the webhook gets it. exit_code: as in retain.errors; 8 where there is no verdict to answer with."""

    run_id: str
    pipeline: str
    state: str
    verdict: str  # pass, regressed, inconclusive, integrity; none: the run ended before the gate, or nobody knows
    exit_code: int
    reasons: list[str]
    candidate_digest: str
    model: str
    version: str
    message: str
    links: dict[str, str]

    @property
    def green(self) -> bool:
        return self.exit_code in (ExitCode.OK, ExitCode.AWAITING_APPROVAL)

    def as_message(self) -> dict[str, Any]:
        return {"schema": SCHEMA, "text": self.text(), **asdict(self)}

    def text(self) -> str:
        """One line for a chat."""
        what = f"{self.model} version {self.version}" if self.version else self.pipeline
        why = f": {', '.join(self.reasons[:3])}" if self.reasons else ""
        return f"{what}: {self.verdict} (exit {self.exit_code}){why}"


def close(pipeline: str, state: str, message: str) -> tuple[Ended, str]:
    """(how the run ended, what became of the webhook). Neither tracker nor webhook can change a verdict: both may be away."""
    run = tracking.run_id()
    tracking.send_kept(run=run)
    ended = how(pipeline, state, message, known(run))
    parent = tracking.parent(run=run)
    parent.end("FINISHED" if _finished(ended) else "FAILED")
    told = _tell(ended)
    parent.tags({"retain.webhook": told})
    parent.send()
    return ended, told


def how(pipeline: str, state: str, message: str, about: Known) -> Ended:
    """The verdict that is known, against the state in which the tasks ended.

    KFP has left the state of a group with conditions at RUNNING; the verdict then decides, and without one it is red.
    """
    tags = about.tags
    said = int(tags.get(summary.EXIT, ExitCode.ENVIRONMENT))
    if state in RED and said in (ExitCode.OK, ExitCode.AWAITING_APPROVAL):
        said = int(ExitCode.ENVIRONMENT)  # the gate was open; what came behind it failed
    return Ended(
        run_id=tracking.run_id(), pipeline=pipeline, state=state, verdict=tags.get(summary.VERDICT, "none"), exit_code=said,
        reasons=json.loads(tags.get(summary.REASONS, "[]"))[:MOST_REASONS], candidate_digest=tags.get(summary.CANDIDATE, ""),
        model=tags.get(summary.MODEL, ""), version=tags.get(summary.VERSION, ""), message=message, links=_links(about),
    )  # fmt: skip


def _finished(ended: Ended) -> bool:
    """A closed gate that ends green (gate.end_run) is a finished run too."""
    return ended.green or (ended.state in GREEN and ended.verdict != "none")


def _links(about: Known) -> dict[str, str]:
    place = os.environ.get("RETAIN_KFP_UI", "").rstrip("/")
    found = {"kfp": f"{place}/#/runs/details/{tracking.run_id()}" if place else "", "mlflow": about.url}
    return {name: url for name, url in found.items() if url}


def _tell(ended: Ended) -> str:
    url = os.environ.get(webhook.VARIABLE, "")
    if not url:
        return "none"
    try:
        webhook.post(url, ended.as_message())
    except RetainError as error:
        return f"failed: {error}"
    return "sent"
