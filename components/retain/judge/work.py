"""Compare the candidate's answers with the base's, and put the result into both scorings as a metric like any other."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from retain import digest
from retain.artifacts import check_writable, read_scores, write_scores
from retain.config import parse
from retain.endpoint import Endpoint
from retain.errors import EnvironmentFault, IntegrityError
from retain.judge import games, length, questions
from retain.judge.config import JudgeConfig
from retain.judge.games import Pair
from retain.judge.play import Bill, play
from retain.judge.replies import Replies
from retain.score.config import ScoreConfig

METRIC, EVEN = "win_rate", 0.5
Scores = tuple[pa.Table, dict[str, Any]]
Said = tuple[str, str]  # verdicts of a pair's games, base shown first and candidate shown first: 1, 2, tie or nothing


@dataclass(frozen=True)
class Outcome:
    """One task's pairs. values: the candidate's share of both games of each pair, in [0, 1].

    win_rate, low, high: mean and 95 % interval over the pairs. length_controlled: the mean at equal lengths.
    first_place: share of decided games that the answer shown first won (.5: no position bias). consistent: share of
    pairs whose two games agree. unreadable: games without a verdict.
    """

    n: int
    wins: int
    ties: int
    losses: int
    win_rate: float
    low: float
    high: float
    length_controlled: float
    first_place: float
    consistent: float
    unreadable: int
    same: int
    base_characters: float
    candidate_characters: float


@dataclass(frozen=True)
class Judged:
    """tasks: what came out of each; examples: pairs with what the judge said, for the page."""

    tasks: dict[str, Outcome]
    bill: Bill
    examples: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {"tasks": {name: asdict(outcome) for name, outcome in self.tasks.items()}, "bill": asdict(self.bill)}


def judge(
    config: JudgeConfig, base_scores: Path, candidate_scores: Path, base_judged: Path, candidate_judged: Path, *,
    cache: Path, dataset: Path | None = None,
) -> Judged:  # fmt: skip
    """Write both scorings again with each judged task's metric `win_rate`, which becomes the task's primary one.

    The base has .5 on every item (it ties with itself) and the candidate its share of the two games, so the gate's drop
    in points is 50 minus the win rate. Without tasks both scorings are handed on as they are. Replies are kept under
    ``cache``: a second run asks nothing twice, whoever was killed.
    """
    if not config.tasks:
        for source, target in ((base_scores, base_judged), (candidate_scores, candidate_judged)):
            shutil.copytree(source, target, dirs_exist_ok=True)
        return Judged({}, Bill())
    for folder in (base_judged, candidate_judged):
        check_writable(folder)
    base, candidate = read_scores(base_scores), read_scores(candidate_scores)
    score = parse(ScoreConfig, base[1]["config"], where="score")  # what was asked, as the scores themselves say
    pairs = [pair for task in config.tasks for pair in _pairs(score, task, (base[0], candidate[0]), config.limit, dataset)]  # fmt: skip
    with Endpoint(config, who="the judge", stage="judge") as endpoint:
        said, bill = play(config, endpoint, Replies(cache / "replies.jsonl"), pairs)
    judged = _judged(config, pairs, said, bill)
    who = {"endpoint": config.endpoint, "model": config.model, "settings": digest.of_json(config.as_parameter())}
    values = {(pair.task, pair.doc_id): _value(replies) for pair, replies in zip(pairs, said, strict=True)}
    _with_win_rate(base, who, dict.fromkeys(values, EVEN), base_judged)
    _with_win_rate(candidate, {**who, **judged.as_dict()}, values, candidate_judged)
    return judged


def _pairs(score: ScoreConfig, task: str, both: Sequence[pa.Table], limit: int, dataset: Path | None) -> list[Pair]:
    """The task's questions with both answers, in the questions' order; IntegrityError where the items are not the same."""
    asked = questions.read(score, task, dataset)
    answers = [{row["doc_id"]: row for row in table.to_pylist() if row["task"] == task} for table in both]
    hashes = [{doc_id: row["doc_hash"] for doc_id, row in rows.items()} for rows in answers]
    expected = {doc_id: sha for doc_id, (sha, _) in asked.items()}
    for side, got in zip(("base", "candidate"), hashes, strict=True):
        if got != expected:
            raise IntegrityError("the scores do not hold the answers to these questions", where=f"{side} scores, task {task}", got=f"{len(got)} items", expected=f"the {len(expected)} items of the settings", fix="score with the same settings again")  # fmt: skip
    base, candidate = answers
    return [
        Pair(task, doc_id, text(), base[doc_id]["output"], candidate[doc_id]["output"])
        for doc_id, (_, text) in islice(asked.items(), limit or None)
    ]


def _value(said: Said) -> float:
    return (games.value(said[0], candidate_first=False) + games.value(said[1], candidate_first=True)) / 2


def _judged(config: JudgeConfig, pairs: Sequence[Pair], said: Sequence[Said], bill: Bill) -> Judged:
    found = {}
    for task in config.tasks:
        mine = [(pair, replies) for pair, replies in zip(pairs, said, strict=True) if pair.task == task]
        found[task] = outcome([pair for pair, _ in mine], [replies for _, replies in mine])
    played = 2 * sum(not pair.same for pair in pairs)
    unreadable = sum(one.unreadable for one in found.values())
    if unreadable > config.max_unreadable_share * max(played, 1):
        raise EnvironmentFault(
            "the judge does not say its verdict in the form it was asked for", where=config.model, got=f"{unreadable} of {played} replies without [[1]], [[2]] or [[tie]]",
            expected=f"at most {config.max_unreadable_share:.0%}", fix="raise judge.max_tokens, or choose a more capable judge.model",
        )  # fmt: skip
    examples = [{**asdict(pair), "said": list(replies), "value": _value(replies)} for pair, replies in zip(pairs, said, strict=True)]  # fmt: skip
    return Judged(found, bill, examples)


def outcome(pairs: Sequence[Pair], said: Sequence[Said]) -> Outcome:
    """What a task's games say together."""
    values = [_value(replies) for replies in said]
    n = len(values)
    mean = sum(values) / n
    error = 1.96 * (sum((v - mean) ** 2 for v in values) / max(n - 1, 1) / n) ** 0.5
    lengths = [[len(pair.base) for pair in pairs], [len(pair.candidate) for pair in pairs]]
    played = [replies for pair, replies in zip(pairs, said, strict=True) if not pair.same]
    decided = [word for replies in played for word in replies if word in ("1", "2")]
    agree = sum(
        games.value(one, candidate_first=False) == games.value(two, candidate_first=True) for one, two in played
    )
    return Outcome(
        n=n, wins=sum(v > EVEN for v in values), ties=sum(v == EVEN for v in values), losses=sum(v < EVEN for v in values),
        win_rate=mean, low=max(0.0, mean - error), high=min(1.0, mean + error), length_controlled=length.controlled(values, *lengths),
        first_place=decided.count("1") / len(decided) if decided else EVEN, consistent=agree / len(played) if played else 1.0,
        unreadable=sum(word == "" for replies in played for word in replies), same=n - len(played),
        base_characters=sum(lengths[0]) / n, candidate_characters=sum(lengths[1]) / n,
    )  # fmt: skip


def _with_win_rate(
    scores: Scores, judge: Mapping[str, Any], values: Mapping[tuple[str, str], float], out: Path
) -> None:
    """The scoring with one more record an item of the judged tasks, and that metric as their primary one."""
    rows, meta = scores[0].to_pylist(), scores[1]
    judged = {
        key: {**row, "metric": METRIC, "value": values[key], "higher_is_better": True, "chance": 0.0}
        for row in rows if (key := (row["task"], row["doc_id"])) in values
    }  # fmt: skip
    tasks = {**meta["tasks"], **{name: _facts(meta["tasks"][name], [v for (task, _), v in values.items() if task == name]) for name in {task for task, _ in values}}}  # fmt: skip
    write_scores(out, [*rows, *judged.values()], {**meta, "tasks": tasks, "judge": judge})


def _facts(before: Mapping[str, Any], values: Sequence[float]) -> dict[str, Any]:
    mean = sum(values) / len(values)
    return {**before, "metric": METRIC, "n": len(values), "mean": mean, "chance": 0.0, "metrics": {**before["metrics"], METRIC: mean}}  # fmt: skip
