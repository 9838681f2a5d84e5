"""What the pipeline's face and the command line share: settings and two scorings in, two judged scorings out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain.config import parse
from retain.judge.config import JudgeConfig
from retain.judge.page import judge_page, percent
from retain.judge.work import Judged, judge
from retain.score.config import ScoreConfig
from retain.steps import numbers, path_of, running, say
from retain.tracking import home, stage

__all__ = ["path_of", "run"]  # the face has one import


def run(
    config: Mapping[str, Any], base_scores: str, candidate_scores: str, base_judged: str, candidate_judged: str, report: str,
    dataset: str = "",
) -> dict[str, float]:  # fmt: skip
    """Both scorings with the judge's win rates in them, and the page; without ``judge.tasks`` they go on as they are."""
    with running("judge"):
        settings = parse(ScoreConfig, config, where="score").judge
        folders = [Path(folder) for folder in (base_scores, candidate_scores, base_judged, candidate_judged)]
        if not settings.tasks:
            say("not wanted: the scores go on as they are")
            judged = judge(settings, *folders, cache=home() / "judged")
            Path(report).write_text(judge_page(settings, judged), encoding="utf-8")
        else:
            judged = _judge(settings, folders, Path(report), Path(dataset) if dataset else None)
        return _numbers(judged)
    raise AssertionError("unreachable: running() leaves on every error")


def _judge(settings: JudgeConfig, folders: list[Path], report: Path, dataset: Path | None) -> Judged:  # fmt: skip
    with stage("judge") as tracked:
        judged = judge(settings, *folders, cache=home() / "judged", dataset=dataset)
        report.write_text(judge_page(settings, judged), encoding="utf-8")
        for name, o in judged.tasks.items():
            say(f"  {name:<24} win rate {percent(o.win_rate)} ({percent(o.low)} to {percent(o.high)}), at equal length {percent(o.length_controlled)}  ({o.n} pairs)")  # fmt: skip
        bill = judged.bill
        say(f"{bill.asked} requests, {bill.kept} replies known from before; {bill.tokens_in:,} tokens read, {bill.tokens_out:,} written; cost {bill.cost:.4g}")  # fmt: skip
        tracked.metrics(_numbers(judged))
        tracked.artifact(report)
    return judged


def _numbers(judged: Judged) -> dict[str, float]:
    rates = {f"win_rate/{name}": o.win_rate for name, o in judged.tasks.items()}
    level = {f"length_controlled_win_rate/{name}": o.length_controlled for name, o in judged.tasks.items()}
    return numbers({**rates, **level, "judge_cost": judged.bill.cost}) if judged.tasks else {}
