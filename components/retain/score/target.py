"""The target metric: the user's own test rows, asked with the very template the model was trained and is served with."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import digest
from retain.artifacts import read_rows
from retain.errors import DataRefused
from retain.score import metrics
from retain.score.config import TARGET_TASK, ScoreConfig, TargetConfig

if TYPE_CHECKING:
    from retain.score.lm import Engine

VERSION = "1"


@dataclass(frozen=True)
class TargetRow:
    """A test row: its id, source, shape, payload as parsed JSON, and the digest of shape and payload."""

    id: str
    source: str
    shape: str
    payload: Any
    sha: str


def read(dataset: Path, config: ScoreConfig) -> list[TargetRow]:
    """The rows of split `test` and part `target`; none is an error, for a target metric without rows decides nothing."""
    rows = (row for row in read_rows(dataset, "retain.dataset/1") if row["split"] == "test" and row["part"] == "target")
    found = [_row(row) for row in islice(rows, config.target.limit or None)]
    if not found:
        raise DataRefused(
            "the dataset has no test rows for the target metric", where=str(dataset), got="0 rows with part target and split test",
            fix="give a file with split: test, or set score.target.metric: none",
        )  # fmt: skip
    return found


def _row(row: dict[str, Any]) -> TargetRow:
    sha = digest.of_json([row["shape"], row["payload"]])
    return TargetRow(row["id"], row["source"], row["shape"], json.loads(row["payload"]), sha)


def score(
    engine: "Engine", rows: Sequence[TargetRow], config: TargetConfig
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(records of task `target`, aggregates that are not means: macro_f1 of labels)."""
    from retain import chat

    asked = [chat.prompt_ids(engine.tokenizer, row.shape, row.payload) for row in rows]
    if config.metric == "token_loss":
        return _by_likelihood(engine, rows, asked), {}
    return _by_answer(engine, rows, asked, config)


def _by_answer(engine: "Engine", rows: Sequence[TargetRow], asked: Sequence[tuple[list[int], str]], config: TargetConfig) -> tuple[list[dict[str, Any]], dict[str, float]]:  # fmt: skip
    from retain.score import generate

    settings = {"until": list(config.stop), "max_gen_toks": config.max_new_tokens, "do_sample": False}
    found = generate.until(engine, [ids for ids, _ in asked], [settings] * len(asked), engine.done)
    measure = metrics.scorer(config)
    golds = [gold for _, gold in asked]
    records = [
        _record(row, config.metric, measure(answer.text, gold), answer.text, gold, answer.truncated)
        for row, gold, answer in zip(rows, golds, found, strict=True)
    ]
    more = {"macro_f1": metrics.macro_f1([answer.text for answer in found], golds, config)}
    return records, more if config.metric == "label_accuracy" else {}


def _by_likelihood(engine: "Engine", rows: Sequence[TargetRow], asked: Sequence[tuple[list[int], str]]) -> list[dict[str, Any]]:  # fmt: skip
    """Mean log-likelihood of a reference's tokens in nats (at most 0, higher is better); long ones in windows."""
    windows = [
        engine.windows(ids, engine.tokenizer.encode(gold, add_special_tokens=False), k)
        for k, (ids, gold) in enumerate(asked)
    ]
    answers = iter(
        engine.score_tokens(
            [w for each in windows for w in each], lambda i: f"target row {rows[_owner(windows, i)].id}"
        )
    )
    records = []
    for row, (_, gold), each in zip(rows, asked, windows, strict=True):
        value = sum(next(answers)[0] for _ in each) / sum(len(w.continuation) for w in each)
        records.append(_record(row, "token_loss", value, "", gold, any(w.truncated(engine.max_length) for w in each)))
    return records


def _owner(windows: Sequence[Sequence[Any]], place: int) -> int:
    for k, each in enumerate(windows):
        if place < len(each):
            return k
        place -= len(each)
    raise IndexError(place)


def _record(row: TargetRow, metric: str, value: float, answer: str, gold: str, truncated: bool) -> dict[str, Any]:
    return {
        "task": TARGET_TASK, "task_version": VERSION, "doc_id": row.id, "doc_hash": row.sha, "cluster": row.sha, "stratum": row.source,
        "metric": metric, "higher_is_better": True, "value": value, "chance": 0.0, "p_gold": float("nan"), "output": answer, "gold": gold,
        "truncated": truncated,
    }  # fmt: skip
