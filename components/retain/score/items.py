"""The gate's items as text, for decontamination: what must not stand in training or replay rows. Imports no torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from retain.score import tasks
from retain.score.config import ScoreConfig


@dataclass(frozen=True)
class GateItem:
    """One benchmark item: the question with its answer, as the model would read it without few-shot examples."""

    task: str
    doc_id: str
    text: str


def gate_items(config: ScoreConfig) -> Iterator[GateItem]:
    """Every item the configured benchmarks will ask, with the names its scores will carry."""
    for leaf in tasks.load(config):
        for number, doc in leaf.docs():
            yield GateItem(leaf.benchmark, leaf.doc_id(number), _text(leaf.task, doc))


def _text(task: Any, doc: dict[str, Any]) -> str:
    """Question, then the choices (or the answer where there are none): each part on a line of its own."""
    question = task.doc_to_text(doc) if task.OUTPUT_TYPE != "loglikelihood_rolling" else ""
    answer = task.doc_to_target(doc)
    choices = task.doc_to_choice(doc) if task.config.doc_to_choice is not None else []
    if task.multiple_input:
        return "\n".join(f"{choice}{answer}" for choice in choices)
    parts = choices or (answer if isinstance(answer, list) else [answer])
    return "\n".join([str(question), *(str(part) for part in parts)])
