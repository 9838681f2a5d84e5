"""The gate step: two (in a retraining three) scorings in; verdict.json, evidence.json and summary.md out."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from retain.artifacts import check_writable, read_scores, write_json
from retain.gate.config import GatePolicy
from retain.gate.evidence import write_evidence
from retain.gate.judge import judge_case, make_case
from retain.gate.summary import summary
from retain.gate.verdict import Verdict
from retain.gate.waivers import Waiver


def gate(
    config: GatePolicy, base_scores: Path, candidate_scores: Path, verdict: Path, *, champion_scores: Path | None = None,
    attempt: int = 1, waivers: Sequence[Waiver] = (), today: str = "", partial: int = 0, repaired: bool = False,
) -> Verdict:  # fmt: skip
    """Decide and write ``verdict``/{verdict.json, evidence.json, summary.md}.

    base_scores: of the ORIGINAL base; champion_scores: of the model in service, in a retraining. waivers: already
    checked (waivers.verified). partial: the number of the look whose items alone are here (judge.Case). repaired: the candidate comes from a repair. A closed gate returns a verdict; errors are for what cannot be judged.
    """
    check_writable(verdict)
    champion = read_scores(champion_scores) if champion_scores is not None else None
    case = make_case(
        read_scores(base_scores), read_scores(candidate_scores), config, champion=champion, attempt=attempt,
        waivers=waivers, today=today or datetime.now(UTC).date().isoformat(),
    )  # fmt: skip
    case = replace(case, partial=partial, repaired=repaired)
    result = judge_case(case, config)
    write_evidence(verdict / "evidence.json", case, result)
    (verdict / "summary.md").write_text(summary(result), encoding="utf-8")
    write_json(verdict / "verdict.json", result.as_dict())
    return result
