"""What was asked: the text behind an item's id, from the dataset (target rows) and from the benchmarks themselves."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from retain.artifacts import read_rows
from retain.config import parse
from retain.errors import RetainError
from retain.report.material import Material

Key = tuple[str, str]  # task, doc_id
ASSISTANT = {"assistant", "model", "gpt"}


def questions(material: Material, wanted: Collection[Key]) -> tuple[dict[Key, str], str]:
    """(text by item, a note on what could not be had). An item whose text is not known is left out of the first."""
    target = str(material.verdict.get("target", {}).get("name", ""))
    dataset = material.folders.there("dataset")
    found = dict(_of_rows(dataset, target, {doc for task, doc in wanted if task == target})) if dataset else {}
    general = {key for key in wanted if key[0] != target}
    config = material.recipe.get("recipe", {}).get("score")
    if not general or config is None:
        return found, ""
    try:
        found.update(_of_benchmarks(config, general))
    except (RetainError, OSError, ImportError) as error:
        return found, f"The benchmarks' questions are not shown, their tasks could not be loaded here: {_first_line(error)}"  # fmt: skip
    return found, ""


def _of_benchmarks(config: Mapping[str, Any], wanted: Collection[Key]) -> Iterator[tuple[Key, str]]:
    from retain.score.config import ScoreConfig
    from retain.score.items import gate_items

    left = set(wanted)
    for item in gate_items(parse(ScoreConfig, config, where="score")):
        if (item.task, item.doc_id) in left:
            left.discard((item.task, item.doc_id))
            yield (item.task, item.doc_id), item.text
        if not left:
            return


def _of_rows(dataset: Path, task: str, ids: Collection[str]) -> Iterator[tuple[Key, str]]:
    for row in read_rows(dataset, "retain.dataset/1") if ids else ():
        if row["id"] in ids and row["split"] == "test":
            yield (task, row["id"]), prompt_of(json.loads(row["payload"]))


def prompt_of(payload: Mapping[str, Any]) -> str:
    """What stands before the answer, as plain text: without system text, and a single user turn without its role."""
    if "messages" in payload:
        return _turns(payload["messages"])
    prompt = next((payload[name] for name in ("prompt", "source", "text") if name in payload), "")
    return prompt if isinstance(prompt, str) else _turns(prompt)


def _turns(messages: list[Mapping[str, Any]]) -> str:
    last = max((i for i, m in enumerate(messages) if m.get("role") in ASSISTANT), default=len(messages))
    before = [m for m in messages[:last] if m.get("role") != "system"]
    if len(before) == 1:
        return _text(before[0].get("content"))
    return "\n".join(f"{m.get('role', '')}: {_text(m.get('content'))}" for m in before)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content or "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
