"""What the parent run of MLflow says once the gate has spoken: the verdict, and each stage's numbers.

The gate tells it, not the exit handler: KFP gives an exit handler no artifacts, and a stage that came from the cache sent
nothing to this run's tracker. The gate has the artifacts of all stages in hand, cached or not.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain.artifacts import read_info, read_json
from retain.report.work import RunFolders
from retain.steps import numbers
from retain.tracking import parent

VERDICT, EXIT, REASONS = "retain.verdict", "retain.exit_code", "retain.reasons"
CANDIDATE, POLICY = "retain.candidate_digest", "retain.policy_digest"
MODEL, VERSION = "retain.model", "retain.version"


def tell(verdict: Path, report: Path, folders: RunFolders) -> None:
    """Put the gate's verdict, the benchmarks and the stages' numbers on this run's parent; ``report`` lies beside it."""
    value = read_json(verdict / "verdict.json", schema="retain.verdict/1")
    to = parent()
    to.tags(_tags(value))
    to.metrics({**benchmarks(value), **stages(folders)})
    if report.is_file():
        to.artifact(report)


def tell_published(name: str, version: str) -> None:
    """The registered version, on this run's parent."""
    parent().tags({MODEL: name, VERSION: version})


def _tags(value: Mapping[str, Any]) -> dict[str, str]:
    tags = {VERDICT: value["verdict"], EXIT: str(value["exit_code"]), REASONS: json.dumps(_reasons(value))}
    digests = {CANDIDATE: value.get("candidate_digest", ""), POLICY: value.get("policy_digest", "")}
    return {**tags, **{name: digest for name, digest in digests.items() if digest}}


def _reasons(value: Mapping[str, Any]) -> list[str]:
    return [f"{reason['code']} {reason.get('benchmark') or ''}".strip() for reason in value["reasons"]]


def benchmarks(value: Mapping[str, Any]) -> dict[str, float]:
    """``base/<name>``, ``tuned/<name>`` (shares) and ``delta/<name>`` of every benchmark and the target."""
    target = value.get("target") or {}
    found: dict[str, float] = {}
    for row in [*value.get("benchmarks", ()), *([target] if "base" in target else [])]:
        found |= {f"base/{row['name']}": row["base"], f"tuned/{row['name']}": row["tuned"]}
        found[f"delta/{row['name']}"] = row["tuned"] - row["base"]
    return found


def stages(folders: RunFolders) -> dict[str, float]:
    """``<stage>/<metric>`` from what the stages left: rows kept and refused, tokens, replay share, the training's summary."""
    kept, refused, mixture = (
        _info(folders, name, schema)
        for name, schema in (("dataset", "retain.dataset/1"), ("rejects", "retain.rejects/1"), ("mixture", "retain.mixture/1"))
    )  # fmt: skip
    found: dict[str, Any] = {"validate/rows": kept.get("rows"), "validate/rejected_rows": refused.get("rows")}
    found |= {f"mix/{key}": value for key, value in mixture.get("achieved", {}).items()}
    if history := folders.there("history"):
        summary = read_json(history, schema="retain.history/1")["summary"]
        found |= {f"train/{key}": value for key, value in summary.items()}
    return numbers(found)


def _info(folders: RunFolders, name: str, schema: str) -> Mapping[str, Any]:
    folder = folders.there(name)
    return read_info(folder, schema) if folder else {}
