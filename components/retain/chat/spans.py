"""Which characters of a rendered chat did the assistant write: exact without generation markers.

Turn i was written after the prompt P = template(messages[:i], add_generation_prompt) and looked like
Q = template(messages[:i+1]) when it was new. Where P and Q are prefixes of the whole rendering, the turn is what Q has
beyond P: prompt and loss are then the very tokens of inference. Where they are not, the template has rewritten the turn
(Qwen3 and gpt-oss strip old thoughts, R1 prompts with a tag that its history lacks), and the caller's option decides.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retain.chat.template import PROBE, ChatTemplate, Message
from retain.errors import DataRefused

ASSISTANT = ("assistant", "model")


@dataclass(frozen=True)
class Spans:
    """Character ranges [start, end) that carry loss, and how many turns a template had rewritten."""

    trained: tuple[tuple[int, int], ...]
    rewritten: int


def assistant_turns(messages: Sequence[Message], first: int = 0) -> list[int]:
    """Indices of the turns that shall carry loss: the assistant's, without ``train: false`` and without ``weight: 0``."""
    wanted = (i for i in range(first, len(messages)) if messages[i].get("role") in ASSISTANT)
    return [i for i in wanted if messages[i].get("train", True) is not False and messages[i].get("weight", 1) != 0]


def find_spans(
    template: ChatTemplate, full: str, messages: Sequence[Message], tools: Any, *, turns: Sequence[int], rewritten: str, where: str
) -> Spans:  # fmt: skip
    """The spans of ``turns`` in ``full``; ``rewritten``: mask, train or refuse (ChatOptions.rewritten_turns)."""
    trained, odd = [], 0
    for turn in turns:
        span = _as_new(template, full, messages, tools, turn, where)
        if span is None:
            odd += 1
            if rewritten == "refuse":
                raise _rewritten_error(turn, where)
            span = _by_sentinel(template, full, messages, tools, turn, where) if rewritten == "train" else None
        if span is not None and span[0] < span[1]:
            trained.append(span)
    return Spans(tuple(trained), odd)


def _as_new(
    template: ChatTemplate, full: str, messages: Sequence[Message], tools: Any, turn: int, where: str
) -> tuple[int, int] | None:
    """The turn as its model would write it now, or None if the template has changed it since."""
    before = template.text(messages[:turn], tools, prompt=True, where=where)
    if not full.startswith(before):
        return None
    start = len(before)
    if turn == len(messages) - 1:
        return start, _end(template, full, start, len(full))
    after = template.text(messages[: turn + 1], tools, where=where)
    end = _end(template, after, start, len(after))
    return (start, end) if full.startswith(after[:end]) else None


def _end(template: ChatTemplate, text: str, start: int, stop: int) -> int:
    """Where the turn in text[start:stop] ends: behind its end-of-turn token, before the line breaks and marks that only close the chat."""
    found = template.closing.search(text, start, stop)
    return found.end(found.lastgroup or 0) if found else stop


def _by_sentinel(
    template: ChatTemplate, full: str, messages: Sequence[Message], tools: Any, turn: int, where: str
) -> tuple[int, int]:
    """What is left of a turn: the text between the head and the tail that a rendering with a probe in its place has."""
    probed = [*messages[:turn], {**messages[turn], "content": PROBE}, *messages[turn + 1 :]]
    head, found, tail = template.text(probed, tools, where=where).partition(PROBE)
    if not (found and full.startswith(head) and full.endswith(tail) and len(head) + len(tail) <= len(full)):
        raise DataRefused(
            "the loss of this turn cannot be placed: the chat template rewrites the chat around it",
            where=f"{where}, turn {turn}".lstrip(", "), fix="set rewritten_turns: mask, or train: false on this turn",
        )  # fmt: skip
    after = len(full) - len(tail)
    closing = re.compile(r"\s*" + re.escape(template.end_of_turn)).match(full, after)
    return len(head), closing.end() if closing and template.end_of_turn else after


def _rewritten_error(turn: int, where: str) -> DataRefused:
    return DataRefused(
        "the chat template shows an earlier assistant turn differently from how the model would write it",
        where=f"{where}, turn {turn}".lstrip(", "),
        fix="set rewritten_turns to mask (no loss on such turns) or train (loss on what is left of them)",
    )
