"""Local runs: their folders, and what a person sees when one has ended."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retain import tracking
from retain.artifacts import read_json, write_json
from retain.errors import ConfigError
from retain.resolve.form import to_form
from retain.resolve.recipe import Recipe
from retain_pipelines.endings import FINALS

LABEL = "run.json"


@dataclass(frozen=True)
class Outcome:
    """A finished run: exit code, verdict (empty where it ended before the gate; of the last model that was gated),
    where things lie; repair: what was tried after a closed gate (repair.json), or empty."""

    exit_code: int
    message: str
    folder: Path
    verdict: dict[str, Any]
    report: Path | None
    published: dict[str, Any]
    cached: list[str]
    repair: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {
            "exit_code": self.exit_code, "message": self.message, "folder": str(self.folder), "verdict": self.verdict,
            "report": str(self.report or ""), "published": self.published, "cached": self.cached,
            "repair": self.repair,
        }  # fmt: skip


def run(
    recipe: Recipe, name: str, runs: Path, *, resume: bool, fresh: bool, show: Callable[[str], None], in_containers: bool = False,
    pipeline: str = "finetune-without-forgetting", arguments: Mapping[str, Any] | None = None,
) -> Outcome:  # fmt: skip
    """Run a pipeline on this machine, in processes or in the images' containers, and gather how it ended.

    arguments: all of the pipeline's; None: the recipe's form.
    """
    from retain_pipelines import compiling, containers, local, pods

    if in_containers:
        containers.check()
    label = name if arguments is None else f"{pipeline}-{Path(name).stem}"
    folder, run_id = _folder(recipe, label, runs.absolute(), resume)
    os.environ.update(RETAIN_RUN_ID=run_id, RETAIN_TRACKING="later", MLFLOW_EXPERIMENT_NAME=recipe.tracking.experiment)
    tracking.parent(run=run_id).tags({"retain.recipe": name})
    cache = None if fresh else runs.absolute() / ".cache"
    ran = local.run(
        pods.with_torch_first(compiling.spec_of(compiling.load(pipeline)), recipe), arguments or to_form(recipe), folder, finals=tuple(FINALS),
        cache=cache, show=show, containers=containers.prepared(folder, recipe.as_parameter()) if in_containers else None,
    )  # fmt: skip
    os.environ.pop("RETAIN_TRACKING", None)
    tracking.send_kept()
    return _outcome(ran.exit_code, ran.message, folder, ran.cached)


def _folder(recipe: Recipe, name: str, runs: Path, resume: bool) -> tuple[Path, str]:
    """A new folder, or with ``resume`` the last one of the same recipe."""
    stem, digest = Path(name).stem, recipe.digest()
    if resume:
        labels = [
            path
            for path in sorted(runs.glob(f"{stem}-*/{LABEL}"))
            if json.loads(path.read_text(encoding="utf-8"))["recipe_digest"] == digest
        ]
        if not labels:
            raise ConfigError(
                "there is no run of this recipe to go on with", where=str(runs), fix="start it without --resume"
            )
        return labels[-1].parent, json.loads(labels[-1].read_text(encoding="utf-8"))["run_id"]
    run_id = f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    write_json(runs / run_id / LABEL, {"run_id": run_id, "recipe": name, "recipe_digest": digest})
    return runs / run_id, run_id


def _outcome(code: int, message: str, folder: Path, cached: list[str]) -> Outcome:
    verdict_file = _last(folder, "gate*/verdict/verdict.json")
    verdict = read_json(verdict_file, schema="retain.verdict/1") if verdict_file else {}
    mended = _last(folder, "repair/sweep/repair.json")
    report = _last(folder, "gate*/report", "repair/report")
    if report:
        (folder / "report.html").write_bytes(report.read_bytes())
    published = _last(folder, "publish*/published")
    return Outcome(
        code or int(verdict.get("exit_code", 0)), message, folder, verdict, folder / "report.html" if report else None,
        json.loads(published.read_text(encoding="utf-8")) if published else {}, cached,
        read_json(mended, schema="retain.repair/1") if mended else {},
    )  # fmt: skip


def _last(folder: Path, *patterns: str) -> Path | None:
    """The newest file that the last start of the run left; what came from its cache lies in an earlier one."""
    for start in sorted(folder.glob("artifacts/*"), reverse=True):
        if found := [path for pattern in patterns for path in start.glob(pattern) if path.is_file()]:
            return max(found, key=lambda path: path.stat().st_mtime_ns)
    return None
