"""What the base is asked: the dataset's own general questions, or questions that it writes itself."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retain import artifacts
from retain.chat import has_template
from retain.chat.template import PROBE, ChatTemplate
from retain.rehearse.config import RehearseConfig


@dataclass(frozen=True)
class Question:
    """The turns before the answer (empty: a text without a question), and what the model is to continue."""

    messages: tuple[dict[str, Any], ...]
    prompt: str


def from_dataset(config: RehearseConfig, folder: Path, tokenizer: Any, template: ChatTemplate) -> list[Question]:
    """Questions of the replay rows in seeded order, each once; those above max_prompt_tokens are left out."""
    found: dict[str, Question] = {}
    for row in artifacts.read_rows(folder, "retain.dataset/1"):
        if (
            row["part"] == "replay"
            and row["split"] != "test"
            and (turns := _turns(row["shape"], json.loads(row["payload"])))
        ):
            prompt = (
                template.text(turns, prompt=True, where=row["id"]) if has_template(tokenizer) else turns[-1]["content"]
            )
            found.setdefault(prompt, Question(tuple(turns), prompt))
    questions = list(found.values())
    lengths = (
        [len(ids) for ids in tokenizer([q.prompt for q in questions], verbose=False)["input_ids"]] if questions else []
    )
    order = np.random.default_rng(config.seed).permutation(len(questions))
    return [questions[i] for i in order if lengths[i] <= config.max_prompt_tokens]


def _turns(shape: str, payload: dict[str, Any]) -> list[dict[str, Any]]:
    if shape == "messages" and not payload.get("tools"):
        return list(_before_answer(payload["messages"]))
    if shape in ("prompt_completion", "seq2seq", "classification", "preference", "kto"):
        prompt = payload.get("prompt", payload.get("source", payload.get("text")))
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(_before_answer(prompt or []))
    return []


def _before_answer(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The turns before the first answer, if they are plain text."""
    for message in messages:
        if message["role"] == "assistant" or not isinstance(message.get("content"), str):
            return
        yield {"role": message["role"], "content": message["content"]}


def beginning(tokenizer: Any, template: ChatTemplate) -> str:
    """What stands before a user's words: a model that continues it writes a question (Magpie); without a template, the
    beginning of any text."""
    if has_template(tokenizer):
        return template.text([{"role": "user", "content": PROBE}], where="the beginning of a chat").partition(PROBE)[0]
    return str(tokenizer.bos_token or tokenizer.eos_token)
