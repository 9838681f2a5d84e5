"""The gate step: two (in a retraining three) scorings in; verdict.json, evidence.json and summary.md out."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from retain.artifacts import check_writable, read_scores, write_json
from retain.gate import attempts
from retain.gate.config import GatePolicy
from retain.gate.early import cut, partial_look
from retain.gate.evidence import write_evidence
from retain.gate.judge import Case, judge_case, make_case
from retain.gate.pairs import Scores
from retain.gate.summary import summary
from retain.gate.verdict import Verdict
from retain.gate.waivers import Waiver

COUNTED = 0


def gate(
    config: GatePolicy, base_scores: Path, candidate_scores: Path, verdict: Path, *, champion_scores: Path | None = None,
    attempt: int = 1, data: str = "", waivers: Sequence[Waiver] = (), today: str = "", repaired: bool = False,
) -> Verdict:  # fmt: skip
    """Decide and write ``verdict``/{verdict.json, evidence.json, summary.md}.

    base_scores: of the ORIGINAL base; champion_scores: of the model in service, in a retraining. attempt: COUNTED takes
    the next number from the register, for the target data with the digest ``data``. waivers: already
    checked (waivers.verified). repaired: the candidate comes from a repair. A candidate whose scoring ended at an early
    look (gate.early) is judged on the items up to it. A closed gate returns a verdict; errors are for what cannot be judged.
    """
    check_writable(verdict)
    base, candidate = read_scores(base_scores), read_scores(candidate_scores)
    champion = read_scores(champion_scores) if champion_scores is not None else None
    look = partial_look(candidate, config)
    case = make_case(
        cut(base, config, look) if look else base, candidate, config, champion=cut(champion, config, look) if look and champion else champion,
        attempt=attempt or 1, waivers=waivers, today=today or datetime.now(UTC).date().isoformat(),
    )  # fmt: skip
    case, result = _decide(replace(case, partial=look, repaired=repaired), config, base, attempt, data)
    write_evidence(verdict / "evidence.json", case, result)
    (verdict / "summary.md").write_text(summary(result), encoding="utf-8")
    write_json(verdict / "verdict.json", result.as_dict())
    return result


def _decide(case: Case, config: GatePolicy, base: Scores, attempt: int, data: str) -> tuple[Case, Verdict]:
    """What cannot be judged raises before it is counted, and nobody sees a verdict that was not counted."""
    result = judge_case(case, config)
    if attempt != COUNTED or all(against.digest == case.candidate_digest for against in case.baselines):
        return case, result
    asked = attempts.question(base, case, config, data)
    counted = replace(case, attempt=attempts.take(asked, case.candidate_digest), asked=asked.key)
    return counted, result if counted.attempt == case.attempt else judge_case(counted, config)
