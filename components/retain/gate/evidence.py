"""evidence.json: the verdict and every paired item behind it, so that anybody can decide again without any model."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from retain import digest
from retain.artifacts import read_json, write_json
from retain.config import parse
from retain.errors import IntegrityError
from retain.gate.config import GatePolicy
from retain.gate.judge import Against, Case, judge_case
from retain.gate.pairs import Pairs
from retain.gate.verdict import Verdict
from retain.gate.waivers import Waiver

SCHEMA = "retain.evidence/1"
HOLDS = ("verdict", "candidate_digest", "baselines", "attempt", "waivers", "today", "partial", "repaired", "asked", "signals")  # fmt: skip


def write_evidence(path: Path, case: Case, verdict: Verdict) -> None:
    """Case and verdict; columns are lists of equal length, a cluster equal to its doc_hash is an empty text."""
    body = {
        "verdict": verdict.as_dict(), "attempt": case.attempt, "today": case.today, "partial": case.partial, "repaired": case.repaired, "asked": case.asked, "candidate_digest": case.candidate_digest, "signals": dict(case.signals),
        "waivers": [asdict(w) for w in case.waivers],
        "baselines": [{"role": a.role, "digest": a.digest, "tasks": {t.name: {"chance": t.chance, "metric": t.metric, "sign": t.sign} for t in a.tasks}, "columns": _columns(a)} for a in case.baselines],
    }  # fmt: skip
    write_json(path, {"schema": SCHEMA, "digest": digest.of_json(body), **body})


def _columns(against: Against) -> dict[str, list[Any]]:
    names = ("task", "doc_hash", "cluster", "base", "tuned", "p_base", "p_tuned")
    rows = [row for task in against.tasks for row in _rows(task)]
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _rows(task: Pairs) -> Iterator[tuple[Any, ...]]:
    nothing = (None,) * len(task.base)
    gold = task.p_base or nothing, task.p_tuned or nothing
    for doc, cluster, base, tuned, one, two in zip(task.doc_hash, task.cluster, task.base, task.tuned, *gold, strict=True):  # fmt: skip
        yield task.name, doc, "" if cluster == doc else cluster, float(base), float(tuned), one, two


def judge_evidence(path: Path) -> Verdict:
    """The verdict decided again from an evidence file; it costs no attempt. IntegrityError if the file was changed."""
    return judge_case(*read_case(path))


def read_case(path: Path) -> tuple[Case, GatePolicy]:
    """What a verdict rested on, and its policy; IntegrityError if the file was changed."""
    body = read_json(path, schema=SCHEMA)
    body.pop("schema")
    stated = body.pop("digest", "")
    if digest.of_json(body) != stated:
        raise IntegrityError("an evidence file was changed after it was written", where=str(path), got=digest.of_json(body), expected=stated)  # fmt: skip
    if lacking := [name for name in HOLDS if name not in body]:
        raise IntegrityError("an evidence file lacks what a verdict rests on", where=str(path), got=f"no {', '.join(lacking)}", fix="use the version of retain that wrote it, or gate again")  # fmt: skip
    case = Case(
        body["candidate_digest"], tuple(_against(one) for one in body["baselines"]), body["attempt"],
        tuple(Waiver(**w) for w in body["waivers"]), body["today"], body["partial"],
        body["repaired"], body["asked"], body["signals"],
    )  # fmt: skip
    return case, parse(GatePolicy, body["verdict"]["policy"], where="gate")


def _against(value: dict[str, Any]) -> Against:
    columns = {name: np.array(column, dtype=object) for name, column in value["columns"].items()}
    tasks = (_task(name, info, {k: v[columns["task"] == name] for k, v in columns.items()}) for name, info in value["tasks"].items())  # fmt: skip
    return Against(value["role"], value["digest"], tuple(sorted(tasks, key=lambda t: t.name)))


def _task(name: str, info: dict[str, Any], columns: dict[str, Any]) -> Pairs:
    documents = tuple(columns["doc_hash"])
    cluster = tuple(c or d for c, d in zip(columns["cluster"], documents, strict=True))
    gold = [tuple(columns[k]) if None not in columns[k] else () for k in ("p_base", "p_tuned")]
    base, tuned = (np.array(columns[k], dtype=float) for k in ("base", "tuned"))
    return Pairs(name, base, tuned, documents, cluster, info["chance"], info["metric"], info["sign"], *gold)
