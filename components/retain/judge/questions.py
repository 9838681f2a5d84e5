"""The questions behind the scores: texts of a generation task's items, or of the dataset's test rows."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from retain.errors import ConfigError
from retain.gate.config import GatePolicy
from retain.score.config import TARGET_TASK, ScoreConfig

SILENT = ("none", "token_loss", "preference_accuracy")  # target metrics that generate no answer
Questions = dict[str, tuple[str, Callable[[], str]]]  # doc_id → (doc_hash, how to get its text)


def read(config: ScoreConfig, task: str, dataset: Path | None) -> Questions:
    """Every question of ``task`` under the names of its scores."""
    found = _of_target(config, dataset) if task == TARGET_TASK else _of_benchmark(config, task)
    return {doc_id: (sha, text) for doc_id, sha, text in found}


def check(config: ScoreConfig, policy: GatePolicy) -> None:
    """Refuse, before anything is spent, what the step could only refuse at its end: tasks without answers or without a tier."""
    for task in config.judge.tasks:
        if task == TARGET_TASK:
            _answering(config)
        elif not any(_of_benchmark(config, task)):
            raise ConfigError("a judged benchmark has no items", where=f"score.judge.tasks: {task}")
        elif task not in policy.benchmarks:
            raise ConfigError(
                "a judged benchmark needs a tier of its own: a win rate moves far more than accuracies do", where=f"gate.benchmarks.{task}",
                fix=f"gate.benchmarks: {{{task}: {{tier: advisory}}}}, or another tier with a max_drop in points of win rate",
            )  # fmt: skip


def _of_benchmark(config: ScoreConfig, name: str) -> Iterator[tuple[str, str, Callable[[], str]]]:
    from retain.score import tasks

    leaves = [leaf for leaf in tasks.load(config) if leaf.benchmark == name]
    if not leaves:
        raise ConfigError("score.judge.tasks names a benchmark that is not scored", got=name, expected=", ".join(spec.name for spec in config.tasks), fix="add it to score.tasks")  # fmt: skip
    for leaf in leaves:
        if leaf.task.OUTPUT_TYPE != "generate_until":
            raise ConfigError("only generated answers can be judged", where=f"score.judge.tasks: {name}", got=leaf.task.OUTPUT_TYPE, expected="a task of kind generate_until")  # fmt: skip
        for number, doc in leaf.docs():
            yield leaf.doc_id(number), tasks.doc_hash(doc), partial(_text, leaf.task, doc)


def _of_target(config: ScoreConfig, dataset: Path | None) -> Iterator[tuple[str, str, Callable[[], str]]]:
    from retain.score import target

    _answering(config)
    if dataset is None:
        raise ConfigError("the test rows are needed to judge their answers", where="score.judge.tasks: target", fix="give the dataset that was scored (--dataset)")  # fmt: skip
    for row in target.read(dataset, config.target.limit):
        yield row.id, row.sha, partial(asked, row.shape, row.payload, row.where)


def _text(task: Any, doc: Mapping[str, Any]) -> str:
    return str(task.doc_to_text(doc))


def _answering(config: ScoreConfig) -> None:
    if config.target.metric in SILENT:
        raise ConfigError("the test rows have no answers to judge", where="score.judge.tasks: target", got=f"target.metric {config.target.metric}", expected="a metric that generates answers (exact_match, rougeL, …)")  # fmt: skip


def asked(shape: str, payload: Mapping[str, Any], where: str) -> str:
    """Everything before the last answer, as a person would read it."""
    from retain.chat.render import as_messages, two_parts
    from retain.chat.spans import ASSISTANT

    if shape == "messages":
        chat = list(payload["messages"])
        last = max((i for i, turn in enumerate(chat) if turn.get("role") in ASSISTANT), default=len(chat))
        chat = chat[:last]
    else:
        chat = as_messages(two_parts(shape, payload, where)[0], "user")
    if len(chat) == 1:
        return str(chat[0].get("content") or "")
    return "\n\n".join(f"{turn.get('role')}: {turn.get('content') or ''}" for turn in chat)
