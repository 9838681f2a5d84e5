"""Whether these very files may leave: digest, verdict, baseline and waivers must agree."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from retain import digest
from retain.artifacts import read_json
from retain.claims import check_finished
from retain.errors import IntegrityError
from retain.gate.waivers import Waiver, verified

SCHEMA = "retain.verdict/1"
DECIDED = ("verdict", "action", "candidate_digest", "baselines", "attempt", "waivers")
NEW_GATE = "score and gate this model again, and publish with the new verdict"


def read(verdict: Path) -> dict[str, Any]:
    """verdict.json of a verdict folder (or the file itself)."""
    return read_json(verdict / "verdict.json" if verdict.is_dir() else verdict, schema=SCHEMA)


def check_evidence(said: Mapping[str, Any], verdict: Path) -> str:
    """Digest of the paired scores beside a verdict, which decided again must give that verdict; empty where only
    verdict.json was handed over. IntegrityError (6) where either was changed by hand."""
    from retain.gate.evidence import judge_evidence

    path = (verdict if verdict.is_dir() else verdict.parent) / "evidence.json"
    if not path.is_file():
        return ""
    again = judge_evidence(path).as_dict()
    odd = [name for name in DECIDED if again[name] != said.get(name)]
    if odd:
        got, expected = (f"{odd[0]}: {value[odd[0]]}" for value in (said, again))
        raise IntegrityError("this verdict is not the one its evidence gives", where=str(verdict), got=got, expected=expected, fix=NEW_GATE)  # fmt: skip
    return str(read_json(path, schema="retain.evidence/1")["digest"])


def checked_manifest(model: Path) -> dict[str, str]:
    """Relative path → sha256 of the model's files as they are now; they must be the ones manifest.json was written for."""
    check_finished(model)
    now = digest.model_manifest(model)
    if (model / "manifest.json").is_file():
        then = read_json(model / "manifest.json", schema="retain.manifest/1")["files"]
        changed = sorted(name for name in {*now, *then} if now.get(name) != then.get(name))
        if changed:
            raise IntegrityError("files of this model were changed after it was made", where=str(model), got=", ".join(changed[:5]), expected="the files of manifest.json", fix="merge again")  # fmt: skip
    if not digest.has_weights(now):
        raise IntegrityError("this folder holds no model", where=str(model), got="no *.safetensors or *.gguf")
    return now


def check(verdict: Mapping[str, Any], candidate: str, *, approved_by: str = "", today: date | None = None) -> None:
    """IntegrityError (6) unless ``verdict`` passes the model with digest ``candidate``."""
    if verdict["candidate_digest"] != candidate:
        raise IntegrityError("this verdict is for another model", got=candidate, expected=verdict["candidate_digest"], fix=NEW_GATE)  # fmt: skip
    if verdict["verdict"] != "pass":
        codes = ", ".join(reason["code"] for reason in verdict["reasons"])
        raise IntegrityError("the gate did not pass this model", got=f"{verdict['verdict']} ({codes})", expected="pass", fix="train again, repair it, or waive the named benchmark")  # fmt: skip
    waiting = verdict["action"] == "wait" and bool(approved_by)
    if verdict["action"] != "publish" and not waiting:
        raise IntegrityError("this verdict does not let the model out", got=f"action {verdict['action']}", expected="publish", fix="retain approve RUN, if a person has to say yes")  # fmt: skip
    held = [w for w in verdict.get("waivers", []) if w.get("holds", True)]
    check_days(held, today)
    verified((_waiver(w, verdict["candidate_digest"]) for w in held), verdict["policy"].get("waiver_keys", []))


def check_days(waivers: Iterable[Mapping[str, Any]], today: date | None = None) -> None:
    """IntegrityError (6) where one of the waivers that a verdict rests on has expired."""
    today = today or datetime.now(UTC).date()
    for waiver in waivers:
        if date.fromisoformat(waiver["until"]) < today:
            raise IntegrityError(
                "a waiver this verdict rests on has expired", where=f"{waiver['benchmark']}, by {waiver['who']}", got=f"today {today}",
                expected=f"until {waiver['until']}", fix="give a new waiver (retain waive) and gate again",
            )  # fmt: skip


def _waiver(row: Mapping[str, Any], candidate: str) -> Waiver:
    return Waiver(row["benchmark"], candidate, row["who"], row["why"], row["until"], row.get("signature", ""))


def check_champion(verdict: Mapping[str, Any], champion: str, *, needed: bool) -> None:
    """The model in service (its digest, or empty) must be the one that the verdict compared with.

    ``needed``: a verdict that compared with no champion at all is refused too (a promotion).
    """
    compared = [b["digest"] for b in verdict["baselines"] if b["role"] == "champion"]
    anyone = [b["digest"] for b in verdict["baselines"]]
    if not champion or champion in anyone or (not compared and not needed) or champion == verdict["candidate_digest"]:
        return
    raise IntegrityError(
        "this verdict does not compare with the model in service", got=", ".join(compared) or "no champion among its baselines", expected=champion, fix="score both models and gate this one against that one (retain gate --champion SCORES); publish or promote it with the new verdict",
    )  # fmt: skip


def digest_of(verdict: Mapping[str, Any]) -> str:
    return digest.of_json(dict(verdict))
