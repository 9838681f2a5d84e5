"""What the pipeline's face and the command line share: settings and score folders in, the name of the final task out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain.artifacts import read_json, write_json
from retain.close.summary import tell
from retain.config import parse
from retain.errors import ExitCode, IntegrityError
from retain.gate.config import GatePolicy
from retain.gate.summary import summary
from retain.gate.verdict import SCHEMA, Verdict
from retain.gate.work import gate
from retain.report.work import RunFolders, write_report
from retain.steps import path_of, running, say
from retain.stop.work import ending
from retain.tracking import stage

__all__ = ["path_of", "run"]  # the face has one import

REPAIR = "repair"


def run(
    config: Mapping[str, Any], base_scores: str, candidate_scores: str, verdict: str, report: str, first: str = "", repairs: bool = False,
    **folders: str,
) -> str:  # fmt: skip
    """Decide, write verdict/ and the report, and name what follows: publish, repair, or one of the stops.

    ``first``: the verdict that closed the gate before the candidate was repaired; empty: it was not. ``repairs``: a repair
    may follow; else a gate that asks for one ends the run. ``folders``: what
    else the report shows, by the names of :class:`retain.report.work.RunFolders`.
    """
    name = "gate-repaired" if first else "gate"
    with running(name), stage(name) as tracked:
        policy = parse(GatePolicy, config, where="gate")
        try:
            result = gate(
                policy,
                Path(base_scores),
                Path(candidate_scores),
                Path(verdict),
                attempt=_attempt(first),
                repaired=bool(first),
            )
        except IntegrityError as error:
            return _integrity(error, Path(verdict), Path(report))
        shown = RunFolders.of(base_scores=base_scores, candidate_scores=candidate_scores, **folders)
        write_report(Path(verdict), Path(report), shown)
        tell(Path(verdict), Path(report), shown)
        say(summary(result))
        tracked.metrics(_numbers(result))
        tracked.tags({"verdict": result.verdict, "policy_digest": result.policy_digest})
        tracked.artifact(Path(report))
        return REPAIR if repairs and result.action == REPAIR else ending(result.exit_code)
    raise AssertionError("unreachable: running() leaves on every error")


def _attempt(first: str) -> int:
    return int(read_json(Path(first) / "verdict.json", schema=SCHEMA)["attempt"]) + 1 if first else 1


def _numbers(result: Verdict) -> dict[str, float]:
    drops = {f"drop_points/{row['name']}": row["drop_points"] for row in result.benchmarks}
    return {"macro_drop_points": result.macro["drop_points"], **drops} if result.macro else drops


def _integrity(error: IntegrityError, verdict: Path, report: Path) -> str:
    """Scores that cannot be compared are a closed gate with a report, like any other."""
    from retain.page import banner, esc, page

    reason = {"code": "integrity", "benchmark": "", "got": str(error), "limit": 0.0, "items_needed": 0, "role": "base"}
    value = {
        "schema": SCHEMA,
        "verdict": "integrity",
        "action": "stop",
        "exit_code": int(ExitCode.INTEGRITY),
        "reasons": [reason],
        "candidate_digest": "",
        "policy": {},
    }
    write_json(verdict / "verdict.json", value)
    report.write_text(
        page(
            "Gate: integrity",
            banner("bad", "The scores cannot be compared") + f"<pre>{esc(error)}</pre>",
            summary="integrity",
        ),
        encoding="utf-8",
    )
    tell(verdict, report, RunFolders())
    say(str(error))
    return ending(ExitCode.INTEGRITY)
