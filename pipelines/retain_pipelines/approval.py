"""What a person approves: the verdict that waits, the very files it is about, and the recipe behind them.

Found in a run's folder, or in the object store where a cluster's run left them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from retain import digest, weights
from retain.artifacts import read_json
from retain.errors import ConfigError, EnvironmentFault, ExitCode, IntegrityError, UsageError
from retain_pipelines.runs import LABEL

NEEDED = ("verdict/verdict.json", "/recipe")


@dataclass(frozen=True)
class Waiting:
    """Folders and files on this machine; run_id names the pipeline run in MLflow (empty: unknown)."""

    verdict: Path
    model: Path
    recipe: Path
    run_id: str = ""


def find(place: Path, *, model: str = "", recipe: str = "") -> Waiting:
    """What waits in ``place``: a run's folder, or a verdict's with ``model`` and ``recipe`` named.

    UsageError (2) where nothing waits, IntegrityError (6) where the files of that digest are not there.
    """
    verdict = _waiting_verdict(place)
    wanted = read_json(verdict / "verdict.json", schema="retain.verdict/1")["candidate_digest"]
    label = place / LABEL
    return Waiting(
        verdict, Path(model) if model else _model(place, wanted), Path(recipe) if recipe else _recipe(place),
        str(json.loads(label.read_text(encoding="utf-8"))["run_id"]) if label.is_file() else "",
    )  # fmt: skip


def _waiting_verdict(place: Path) -> Path:
    files = sorted(place.rglob("verdict.json"), key=lambda file: file.stat().st_mtime) if place.is_dir() else []
    said = [(file.parent, read_json(file, schema="retain.verdict/1")["exit_code"]) for file in files]
    found = [folder for folder, code in said if code == ExitCode.AWAITING_APPROVAL]
    if not found:
        got = f"exit code {said[-1][1]}" if said else "no verdict.json"
        raise UsageError("nothing waits for an approval here", where=str(place), got=got, expected=f"exit code {int(ExitCode.AWAITING_APPROVAL)}", fix="name the run's folder, or the verdict's; gate.approval: required makes a pass wait")  # fmt: skip
    return found[-1]


def _model(place: Path, wanted: str) -> Path:
    """By what its manifest says (the publication looks at the files themselves); a merge that was not repeated lies in an
    earlier run's folder."""
    earlier = _models(place.parent) if (place / LABEL).is_file() else ()
    others = 0
    for folder in (*_models(place), *earlier):
        if digest.of_manifest(read_json(folder / "manifest.json", schema="retain.manifest/1")["files"]) == wanted:
            return folder
        others += 1
    raise IntegrityError("the model that the verdict is about is not there", where=str(place), got=f"{others} models of other digests", expected=wanted, fix="name its folder with --model")  # fmt: skip


def _models(place: Path) -> Iterator[Path]:
    yield from sorted({file.parent for file in place.rglob("manifest.json") if weights.has_weights(file.parent)})


def _recipe(place: Path) -> Path:
    found = sorted(file for file in place.rglob("recipe") if file.is_file())
    if not found:
        raise UsageError("the resolved recipe is not there", where=str(place), fix="name it with --recipe")
    return found[-1]


def download(root: str, pipeline: str, run_id: str, folder: Path) -> Path:
    """Verdict, recipe and model of a cluster's run from ``root`` (s3://bucket/prefix of the pipeline root) into ``folder``."""
    from retain import s3

    if urlsplit(root).scheme != "s3":
        raise ConfigError("--artifacts takes the pipeline root on S3", got=root, expected="s3://bucket/prefix")
    base = f"{root.rstrip('/')}/{pipeline}/{run_id}"
    objects: dict[str, Any] = s3.listing(base)
    models = {name.rpartition("/")[0] for name in objects if name.endswith("/manifest.json")}
    wanted = {name: found for name, found in objects.items() if name.endswith(NEEDED) or name.rpartition("/")[0] in models}  # fmt: skip
    if not any(name.endswith(NEEDED[0]) for name in wanted):
        raise EnvironmentFault("the run left no verdict.json", where=base, fix="check --artifacts: it is the pipeline root of the run")  # fmt: skip
    s3.download(base, wanted, folder)
    return folder
