"""What a report is made of: everything a run left, read once. What a run does not have is empty."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from retain.artifacts import read_info, read_json, read_scores, read_tables
from retain.gate.evidence import SCHEMA as EVIDENCE
from retain.gate.verdict import SCHEMA as VERDICT
from retain.report.excerpts import Excerpts, read_preview

Scores = tuple[pa.Table, Mapping[str, Any]]
ROW_NUMBERS = 12  # shown for a reason


@dataclass(frozen=True)
class RunFolders:
    """What a report may show, by the name of the artifact; what a run does not have is left out."""

    base_scores: Path | None = None
    candidate_scores: Path | None = None
    history: Path | None = None
    rejects: Path | None = None
    mixture: Path | None = None
    preview: Path | None = None
    recipe: Path | None = None
    dataset: Path | None = None
    repair: Path | None = None

    @classmethod
    def of(cls, **paths: str) -> "RunFolders":
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(paths) - known)
        if unknown:
            raise TypeError(f"no such artifact in a report: {', '.join(unknown)}")
        return cls(**{name: Path(path) for name, path in paths.items() if path})

    def there(self, name: str) -> Path | None:
        """The artifact, if the run wrote one: a step that was skipped leaves a name without a file."""
        path: Path | None = getattr(self, name)
        return path if path is not None and path.exists() else None


@dataclass
class Refused:
    """Rows refused for one reason at one source: how many, and the first row numbers; never their text."""

    source: str
    reason: str
    rows: int = 0
    numbers: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Material:
    """Parsed artifacts; an empty mapping, list or None is one that is not there."""

    verdict: Mapping[str, Any]
    folders: RunFolders
    evidence: Mapping[str, Any]
    base: Scores | None
    tuned: Scores | None
    history: Mapping[str, Any]
    mixture: Mapping[str, Any]
    recipe: Mapping[str, Any]
    repair: Mapping[str, Any]
    ledger: Mapping[str, Any]
    refused: list[Refused]
    refused_rows: int
    excerpts: Excerpts


def read(verdict: Path, folders: RunFolders) -> Material:
    """Read the verdict's folder and whatever else is there; IntegrityError (6) for a damaged artifact."""
    decided = read_json(verdict / "verdict.json", schema=VERDICT)
    proof = verdict / "evidence.json"
    refused, rows = _refused(folders.there("rejects"))
    mended = folders.there("repair")
    preview = folders.there("preview")
    return Material(
        verdict=decided, folders=folders, evidence=read_json(proof, schema=EVIDENCE) if proof.is_file() else {},
        base=_scores(folders.there("base_scores")), tuned=_scores(folders.there("candidate_scores")),
        history=_json(folders.there("history"), "retain.history/1"), mixture=_info(folders.there("mixture"), "retain.mixture/1"),
        recipe=_json(folders.there("recipe"), "retain.recipe/1"), repair=_json(mended / "repair.json" if mended else None, "retain.repair/1"),
        ledger=_json(_there(verdict / "ledger.json"), "retain.ledger/1"), refused=refused, refused_rows=rows,
        excerpts=read_preview(preview.read_text(encoding="utf-8")) if preview else Excerpts(),
    )  # fmt: skip


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _json(path: Path | None, schema: str) -> Mapping[str, Any]:
    return read_json(path, schema=schema) if path else {}


def _info(folder: Path | None, schema: str) -> Mapping[str, Any]:
    return read_info(folder, schema) if folder else {}


def _scores(folder: Path | None) -> Scores | None:
    return read_scores(folder) if folder else None


def _refused(folder: Path | None) -> tuple[list[Refused], int]:
    """Counts by source and reason, most first. A reason's detail (``pii: …``) is left out, it may quote the row."""
    if folder is None:
        return [], 0
    read_info(folder, "retain.rejects/1")
    found: dict[tuple[str, str], Refused] = {}
    rows = 0
    for table in read_tables(folder):
        for row in table.select(["source", "row", "reasons"]).to_pylist():
            rows += 1
            for reason in row["reasons"]:
                _count(found, row["source"], reason.partition(":")[0], row["row"])
    return sorted(found.values(), key=lambda r: (-r.rows, r.source, r.reason)), rows


def _count(found: dict[tuple[str, str], Refused], source: str, reason: str, number: int) -> None:
    entry = found.setdefault((source, reason), Refused(source, reason))
    entry.rows += 1
    if len(entry.numbers) < ROW_NUMBERS:
        entry.numbers.append(number)
