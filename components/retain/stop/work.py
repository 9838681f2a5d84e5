"""The end of a run that publishes nothing: raise what the gate said, with its exit code."""

from pathlib import Path

from retain.artifacts import read_json
from retain.errors import AwaitingApproval, ExitCode, Inconclusive, IntegrityError, Regressed, RetainError

ENDINGS: dict[ExitCode, tuple[str, type[RetainError]]] = {
    ExitCode.REGRESSED: ("stop-regressed", Regressed),
    ExitCode.INCONCLUSIVE: ("stop-inconclusive", Inconclusive),
    ExitCode.INTEGRITY: ("stop-integrity", IntegrityError),
    ExitCode.AWAITING_APPROVAL: ("await-approval", AwaitingApproval),
}


def ending(exit_code: int) -> str:
    """The final task that belongs to a verdict's exit code: ``publish`` or one of the stops."""
    return "publish" if exit_code == ExitCode.OK else ENDINGS[ExitCode(exit_code)][0]


def name(exit_code: int) -> str:
    """What the task `stop` is called in the run: ``passed`` where nothing is to be published, else the ending."""
    return "passed" if exit_code == ExitCode.OK else ending(exit_code)


def stop(verdict: Path) -> None:
    """End as the verdict says: green where it passed, waits for a person or may end so (gate.end_run), red otherwise."""
    value = read_json(verdict / "verdict.json", schema="retain.verdict/1")
    if value["exit_code"] == ExitCode.OK or value["policy"].get("end_run") == "green":
        return
    _, kind = ENDINGS[ExitCode(value["exit_code"])]
    reasons = "; ".join(_reason(reason) for reason in value["reasons"]) or value["verdict"]
    if kind is not AwaitingApproval:
        raise kind(
            f"the gate is closed: {value['verdict']}",
            got=reasons,
            fix="see the report: what fell, which items flipped, and what to try next",
        )


def _reason(reason: dict[str, object]) -> str:
    parts = [str(reason["code"]), str(reason.get("benchmark") or "")]
    if isinstance(got := reason.get("got"), int | float):
        parts.append(f"{got:.2f} (limit {reason.get('limit')})")
    return " ".join(part for part in parts if part)
