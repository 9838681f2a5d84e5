"""Local runs: their folders, and what a person sees when one has ended."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain import tracking
from retain.artifacts import read_json, write_json
from retain.errors import ConfigError
from retain.resolve.form import to_form
from retain.resolve.recipe import Recipe

LABEL = "run.json"


@dataclass(frozen=True)
class Outcome:
    """A finished run: exit code, verdict (empty where it ended before the gate), where things lie."""

    exit_code: int
    message: str
    folder: Path
    verdict: dict[str, Any]
    report: Path | None
    published: dict[str, Any]
    cached: list[str]

    def as_json(self) -> dict[str, Any]:
        return {
            "exit_code": self.exit_code, "message": self.message, "folder": str(self.folder), "verdict": self.verdict,
            "report": str(self.report or ""), "published": self.published, "cached": self.cached,
        }  # fmt: skip


def run(
    recipe: Recipe, name: str, runs: Path, *, resume: bool, fresh: bool, show: Callable[[str], None], in_containers: bool = False
) -> Outcome:  # fmt: skip
    """Run the pipeline on this machine, in processes or in the images' containers, and gather how it ended."""
    from retain_pipelines import containers, finetune, local, pods
    from retain_pipelines.compiling import spec_of

    if in_containers:
        containers.check()
    folder, run_id = _folder(recipe, name, runs.absolute(), resume)
    os.environ.update(RETAIN_RUN_ID=run_id, RETAIN_TRACKING="later", MLFLOW_EXPERIMENT_NAME=recipe.tracking.experiment)
    parent = tracking.parent(run=run_id)
    parent.params(recipe.as_parameter())
    parent.tags({"retain.recipe_digest": recipe.digest(), "retain.recipe": name})
    cache = None if fresh else runs.absolute() / ".cache"
    ran = local.run(
        pods.with_torch_first(spec_of(finetune.finetune), recipe), to_form(recipe), folder, finals=("publish", *finetune.STOPS),
        cache=cache, show=show, containers=containers.prepared(folder, recipe.as_parameter()) if in_containers else None,
    )  # fmt: skip
    outcome = _outcome(ran.exit_code, ran.message, folder, ran.cached)
    _close(parent, outcome)
    return outcome


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
    verdict_file, report = _last(folder, "gate/verdict/verdict.json"), _last(folder, "gate/report")
    verdict = read_json(verdict_file, schema="retain.verdict/1") if verdict_file else {}
    if report:
        (folder / "report.html").write_bytes(report.read_bytes())
    published = _last(folder, "publish/published")
    return Outcome(
        code or int(verdict.get("exit_code", 0)), message, folder, verdict, folder / "report.html" if report else None,
        json.loads(published.read_text(encoding="utf-8")) if published else {}, cached,
    )  # fmt: skip


def _last(folder: Path, pattern: str) -> Path | None:
    found = sorted(folder.glob(f"artifacts/*/{pattern}"))
    return found[-1] if found else None


def _close(parent: tracking.Stage, outcome: Outcome) -> None:
    """The parent run: verdict, the benchmarks' numbers, the report; then everything kept is sent at once."""
    verdict: Mapping[str, Any] = outcome.verdict
    if verdict:
        parent.tags(
            {
                "retain.verdict": verdict["verdict"],
                "retain.candidate_digest": verdict["candidate_digest"],
                "retain.policy_digest": verdict["policy_digest"],
            }
        )
        for row in [*verdict["benchmarks"], *([verdict["target"]] if verdict.get("target") else [])]:
            parent.metrics(
                {
                    f"base/{row['name']}": row["base"],
                    f"tuned/{row['name']}": row["tuned"],
                    f"delta/{row['name']}": row["tuned"] - row["base"],
                }
            )
    if outcome.report:
        parent.artifact(outcome.report)
    parent.end("FINISHED" if outcome.exit_code in (0, 5) else "FAILED")
    os.environ.pop("RETAIN_TRACKING", None)
    tracking.send_kept()
