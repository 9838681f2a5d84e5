"""What the pipeline's face and the command line share: a closed gate and its model in, a weaker one or a proposal out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain import weights
from retain.artifacts import read_json
from retain.config import parse
from retain.merge.config import MergeConfig
from retain.repair.choose import Tried
from retain.repair.config import RepairConfig
from retain.repair.proposal import diff
from retain.repair.work import Inputs, RepairResult, repair
from retain.report.work import RunFolders, write_report
from retain.resolve.work import base_folder
from retain.score.config import ScoreConfig
from retain.steps import path_of, running, say
from retain.stop.work import ending
from retain.tracking import home, stage

__all__ = ["RETRY", "path_of", "run"]  # the face has one import

RETRY = "retry"


def run(
    config: Mapping[str, Any], merging: Mapping[str, Any], base: Mapping[str, str], adapter: str, gated: str, verdict: str, base_scores: str,
    model: str, out: str, report: str, **folders: str,
) -> str:  # fmt: skip
    """Choose and merge a repair (model/, out/repair.json, report); ``retry`` where it is worth an attempt, else the run's
    final task. ``folders``: what else the report shows; the dataset holds the target's rows."""
    with running("repair"), stage("repair") as tracked:
        settings, merge = parse(RepairConfig, config, where="repair"), parse(MergeConfig, merging, where="merge")
        scoring = parse(ScoreConfig, read_json(Path(base_scores) / "scores.json", schema="retain.scores/1")["config"], where="score")  # fmt: skip
        inputs = Inputs(
            base_folder(base), base["digest"], weights.whole(Path(adapter)), weights.whole(Path(gated)), Path(verdict), _path(folders.get("dataset", "")),
            _recipe(folders.get("recipe", "")),
        )  # fmt: skip
        result = repair(settings, merge, scoring, inputs, Path(model), Path(out), cache=home() / "scores", show=_show)
        write_report(Path(verdict), Path(report), RunFolders.of(base_scores=base_scores, repair=out, **folders))
        _tell(result)
        if one := result.chosen:
            tracked.metrics({"repair_strength": one.strength, "repair_pass_probability": one.probability})
            tracked.tags({"model_digest": result.digest, "repair_method": one.method})
            weights.send_off(Path(model))
        tracked.artifact(Path(report))
        return RETRY if result.chosen else ending(_exit_code(Path(verdict)))
    raise AssertionError("unreachable: running() leaves on every error")


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _recipe(text: str) -> Mapping[str, Any]:
    return read_json(Path(text), schema="retain.recipe/1")["recipe"] if text else {}  # type: ignore[no-any-return]


def _exit_code(verdict: Path) -> int:
    return int(read_json(verdict / "verdict.json", schema="retain.verdict/1")["exit_code"])


def _show(one: Tried) -> None:
    f = one.forecast
    say(f"  {one.method:<10} {one.strength:<5g} general {-f.drop_seen:+6.2f}  (fitted {-f.drop:+6.2f})  target {f.gain_seen:+6.1f}  passes in {100 * one.probability:3.0f} %")  # fmt: skip


def _tell(result: RepairResult) -> None:
    for note in result.notes:
        say(f"  {note}")
    if one := result.chosen:
        say(
            f"chosen    {one.method} at strength {one.strength:g}: predicted to pass in {100 * one.probability:.0f} % of runs"
        )
        say(f"model     {result.digest}")
        return
    say("no attempt is spent: nothing that was tried is likely to pass. The next training:")
    say(diff(list(result.changes)))
