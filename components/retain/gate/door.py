"""What the pipeline's face and the command line share: settings and score folders in, the name of the final task out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain.artifacts import read_json, scores_meta, write_json
from retain.close.summary import tell
from retain.config import parse
from retain.errors import ExitCode, IntegrityError
from retain.gate.config import GatePolicy
from retain.gate.given import given
from retain.gate.summary import summary
from retain.gate.verdict import SCHEMA, Verdict
from retain.gate.work import COUNTED, gate
from retain.publish import ledger
from retain.report.work import RunFolders, write_report
from retain.resolve.work import target_data
from retain.steps import path_of, running, say
from retain.stop.work import ending
from retain.tracking import stage

__all__ = ["path_of", "run"]  # the face has one import

REPAIR = "repair"


def run(
    config: Mapping[str, Any], base_scores: str, candidate_scores: str, verdict: str, report: str, data: str = "", waivers: str = "",
    champion_scores: str = "", first: str = "", repairs: bool = False, role: str = "", **folders: str,
) -> str:  # fmt: skip
    """Decide, write verdict/ and the report, and name what follows: publish, repair, or one of the stops.

    ``data``: digest of the target data; empty: that of the resolved recipe, where there is one. ``waivers``: a file of
    further waivers. ``champion_scores``: of the model in service, in a retraining. ``first``: the verdict that closed the
    gate before the candidate was repaired; empty: it was not. ``repairs``: a repair may follow; else a gate that asks for
    one ends the run. ``role``: repaired or compressed, where the candidate was made of one that was gated before. ``folders``: what else the report shows, by the names of :class:`retain.report.work.RunFolders`.
    """
    name = "-".join(filter(None, ("gate", role or ("repaired" if first else ""))))
    with running(name), stage(name) as tracked:
        policy = parse(GatePolicy, config, where="gate")
        try:
            data = data or _target_data(folders.get("recipe", ""))
            lifted = given(_scored(candidate_scores), policy.waiver_keys, Path(waivers) if waivers else None)
            result = gate(
                policy, Path(base_scores), Path(candidate_scores), Path(verdict), champion_scores=_champion(champion_scores, base_scores),
                attempt=COUNTED, data=data, waivers=lifted, repaired=bool(first or role),
            )  # fmt: skip
            if champion_scores:
                _keep_ledger(result, folders.get("recipe", ""), Path(verdict))
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


def _scored(scores: str) -> str:
    """Digest of the model whose scores these are."""
    return str(scores_meta(Path(scores))["model_digest"])


def _champion(scores: str, base_scores: str) -> Path | None:
    """Before the first promotion the base itself was scored in the champion's place: then there is none to compare with."""
    return Path(scores) if scores and _scored(scores) != _scored(base_scores) else None


def _keep_ledger(result: Verdict, recipe: str, verdict: Path) -> None:
    """The generations before this one stand in the registry under the name that is published to."""
    if recipe:
        name = read_json(Path(recipe), schema="retain.recipe/1")["recipe"]["publish"]["name"]
        ledger.write(verdict / "ledger.json", name, result.as_dict())


def _target_data(recipe: str) -> str:
    return target_data(read_json(Path(recipe), schema="retain.recipe/1")["sources"]) if recipe else ""


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
