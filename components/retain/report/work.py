"""The page a person opens first: verdict, what changed, and everything it rests on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from retain.artifacts import read_json
from retain.page import banner, page, table


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

    @classmethod
    def of(cls, **paths: str) -> "RunFolders":
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(paths) - known)
        if unknown:
            raise TypeError(f"no such artifact in a report: {', '.join(unknown)}")
        return cls(**{name: Path(path) for name, path in paths.items() if path})


def write_report(verdict: Path, report: Path, folders: RunFolders) -> None:
    """Write one self-contained page beside the verdict."""
    value: Mapping = read_json(verdict / "verdict.json", schema="retain.verdict/1")
    kind = {"pass": "good", "regressed": "bad"}.get(value["verdict"], "warn")
    rows = [(r["name"], f"{r['base']:.3f}", f"{r['tuned']:.3f}", f"{-r['drop_points']:+.2f}") for r in value["benchmarks"]]
    body = banner(kind, value["verdict"]) + table(("benchmark", "base", "tuned", "change"), rows, numeric=(1, 2, 3))
    report.write_text(page("Gate report", body, summary=value["verdict"]), encoding="utf-8")
