"""The target metric: the user's own test rows, asked with the very template the model was trained and is served with."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import digest
from retain.artifacts import IGNORED_LABEL, read_rows
from retain.errors import DataRefused
from retain.score import metrics
from retain.score.config import TARGET_TASK, ScoreConfig
from retain.score.plan import Request

if TYPE_CHECKING:
    from retain.score.lm import Engine

VERSION = "1"
Records = list[dict[str, Any]]


@dataclass(frozen=True)
class TargetRow:
    """A test row; `payload` is parsed JSON, `sha` the digest of shape and payload."""

    id: str
    source: str
    shape: str
    payload: Any
    sha: str

    @property
    def where(self) -> str:
        return f"target row {self.id}"


def read(dataset: Path, limit: int = 0) -> list[TargetRow]:
    """The first ``limit`` rows (0: all) of part `target` and split `test`. None at all is an error."""
    rows = (row for row in read_rows(dataset, "retain.dataset/1") if row["split"] == "test" and row["part"] == "target")
    found = [_row(row) for row in islice(rows, limit or None)]
    if not found:
        raise DataRefused(
            "the dataset has no test rows for the target metric", where=str(dataset), got="0 rows with part target and split test",
            fix="give a file with split: test, or set score.target.metric: none",
        )  # fmt: skip
    return found


def _row(row: dict[str, Any]) -> TargetRow:
    sha = digest.of_json([row["shape"], row["payload"]])
    return TargetRow(row["id"], row["source"], row["shape"], json.loads(row["payload"]), sha)


def score(engine: "Engine", rows: Sequence[TargetRow], config: ScoreConfig) -> tuple[Records, dict[str, float]]:
    """(records of task `target`, aggregates that are no means: macro_f1 of labels)."""
    if config.target.metric == "preference_accuracy":
        return _by_preference(engine, rows, config), {}
    if odd := next((row for row in rows if row.shape in ("preference", "kto")), None):
        raise DataRefused(
            "a row that judges answers has no single right answer to compare with", where=odd.where, got=odd.shape,
            fix="set score.target.metric: preference_accuracy (pairs), or none",
        )  # fmt: skip
    if config.target.metric in ("token_loss", "perplexity"):
        return _by_likelihood(engine, rows, config), {}
    return _by_answer(engine, rows, config)


def _by_answer(engine: "Engine", rows: Sequence[TargetRow], config: ScoreConfig) -> tuple[Records, dict[str, float]]:
    from retain import chat
    from retain.score import generate

    options, target = _options(engine, config), config.target
    asked = [chat.prompt_ids(engine.tokenizer, row.shape, row.payload, options, where=row.where) for row in rows]
    golds = [gold for _, gold in asked]
    settings = {"until": list(target.stop), "max_gen_toks": target.max_new_tokens, "do_sample": False}
    found = generate.until(
        engine, [ids for ids, _ in asked], [settings] * len(asked), engine.done, lambda i: rows[i].where
    )
    texts = [answer.text for answer in found]
    records = [
        _record(row, target.metric, value, answer.text, gold, answer.truncated)
        for row, gold, answer, value in zip(rows, golds, found, metrics.values(texts, golds, target), strict=True)
    ]
    labels = target.metric in ("label_accuracy", "macro_f1")
    return records, {"macro_f1": metrics.macro_f1(texts, golds, target)} if labels else {}


def _options(engine: "Engine", config: ScoreConfig) -> Any:
    return config.chat_options().model_copy(update={"encoder_decoder": engine.encoder_decoder})


def _by_likelihood(engine: "Engine", rows: Sequence[TargetRow], config: ScoreConfig) -> Records:
    """Mean log-likelihood in nats of a row's supervised tokens (those a training would learn): at most 0, higher is better;
    perplexity is the exponential of its negative."""
    found = _likelihoods(engine, [(row.shape, row.payload, row.where) for row in rows], config)
    if config.target.metric == "token_loss":
        return [_record(row, "token_loss", mean, "", "", cut) for row, (mean, cut) in zip(rows, found, strict=True)]
    return [
        _record(row, "perplexity", math.exp(-mean), "", "", cut) | {"higher_is_better": False}
        for row, (mean, cut) in zip(rows, found, strict=True)
    ]


def _by_preference(engine: "Engine", rows: Sequence[TargetRow], config: ScoreConfig) -> Records:
    """1 where the chosen answer has the larger mean log-likelihood a token, else 0 (also where both are as likely)."""
    from retain.chat import sides

    if odd := next((row for row in rows if row.shape != "preference"), None):
        raise DataRefused("preference_accuracy compares two answers", where=odd.where, got=odd.shape, expected="preference", fix="choose another score.target.metric")  # fmt: skip
    texts = [(*side, row.where) for row in rows for side in sides(row.shape, row.payload)]
    found = _likelihoods(engine, texts, config)
    return [
        _record(row, "preference_accuracy", float(chosen[0] > rejected[0]), "", "", chosen[1] or rejected[1])
        | {"chance": 0.5}
        for row, chosen, rejected in zip(rows, found[::2], found[1::2], strict=True)
    ]


def _likelihoods(
    engine: "Engine", texts: Sequence[tuple[str, Any, str]], config: ScoreConfig
) -> list[tuple[float, bool]]:
    """(mean log-likelihood of the supervised tokens in nats, whether the left end was cut) of every (shape, payload, where)."""
    from retain.chat import Renderer

    renderer = Renderer(engine.tokenizer, _options(engine, config))
    rendered = renderer.encode([renderer.draft(shape, payload, where=where) for shape, payload, where in texts])
    parts = [
        [Request(tuple(row.input_ids), tuple(row.labels), k)]
        if engine.encoder_decoder
        else spans(row.input_ids, row.labels, k, engine.max_length)
        for k, row in enumerate(rendered)
    ]
    owner = [k for k, part in enumerate(parts) for _ in part]
    answers = engine.score_tokens([span for part in parts for span in part], lambda i: texts[owner[i]][2])
    totals = [0.0] * len(texts)
    for k, (value, _greedy) in zip(owner, answers, strict=True):
        totals[k] += value
    return [
        (total / sum(len(span.continuation) for span in part), any(engine.cut(span) for span in part))
        for total, part in zip(totals, parts, strict=True)
    ]


def spans(tokens: Sequence[int], labels: Sequence[int], owner: int, max_length: int) -> list[Request]:
    """Each run of supervised tokens after all that stands before it; a run longer than half the context in several."""
    found, step = [], max(max_length // 2, 1)
    start = 0
    while start < len(labels):
        if labels[start] == IGNORED_LABEL:
            start += 1
            continue
        end = next((i for i in range(start, len(labels)) if labels[i] == IGNORED_LABEL), len(labels))
        found += [
            Request(tuple(tokens[:at]), tuple(tokens[at : min(end, at + step)]), owner)
            for at in range(start, end, step)
        ]
        start = end
    return found


def _record(row: TargetRow, metric: str, value: float, answer: str, gold: str, truncated: bool) -> dict[str, Any]:
    return {
        "task": TARGET_TASK, "task_version": VERSION, "doc_id": row.id, "doc_hash": row.sha, "cluster": row.sha, "stratum": row.source,
        "metric": metric, "higher_is_better": True, "value": value, "chance": 0.0, "p_gold": float("nan"), "output": answer, "gold": gold,
        "truncated": truncated,
    }  # fmt: skip
