"""What a router sees: the user's words of a row, and the question of a benchmark's item."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from retain.artifacts import read_rows
from retain.divide.work import domain_of
from retain.route.router import BASE
from retain.score.config import TARGET_TASK, ScoreConfig

USER = {"user", "human"}


class Row(NamedTuple):
    """A row's id, the adapter it belongs to (general rows: base), its split, and the text before its answer."""

    id: str
    adapter: str
    split: str
    prompt: str


def rows(dataset: Path) -> Iterator[Row]:
    """Target and replay rows of a checked dataset; the name of a target row's source is its domain."""
    for row in read_rows(dataset, "retain.dataset/1"):
        adapter = domain_of(row["source"]) if row["part"] == "target" else BASE
        yield Row(row["id"], adapter, row["split"], text(row["shape"], json.loads(row["payload"])))


def text(shape: str, payload: Mapping[str, Any]) -> str:
    """The user's turns, or the prompt; of plain text its beginning."""
    if shape == "messages":
        turns = [turn for turn in payload["messages"] if turn.get("role") in USER]
        return "\n".join(_words(turn.get("content")) for turn in turns)
    if shape == "text":
        return str(payload.get("text", ""))[:2000]
    prompt = payload.get("prompt", "")
    return prompt if isinstance(prompt, str) else text("messages", {"messages": prompt})


def _words(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content or "")


def items(config: ScoreConfig, dataset: Path) -> dict[tuple[str, str], str]:
    """(task, doc_id) → prompt, of every item that scores have: benchmarks and the target's test rows."""
    from retain.score import tasks

    found = {
        (leaf.benchmark, leaf.doc_id(number)): str(leaf.task.doc_to_text(doc))
        for leaf in tasks.load(config)
        for number, doc in leaf.docs()
    }
    return found | {(TARGET_TASK, row.id): row.prompt for row in rows(dataset) if row.split == "test"}
