"""A row on its way through the checks: what it says, where it stands, and what was found in it."""

import json
from dataclasses import dataclass, field
from typing import Any

from retain import digest
from retain.validate.config import ValidateConfig
from retain.validate.read import Record
from retain.validate.shapes import convert
from retain.validate.turns import Unfit


@dataclass
class Sample:
    """``counts`` holds a number for every reason found (absent: 0), ``details`` what to tell a person about it."""

    record: Record
    shape: str = ""
    payload: dict[str, Any] | None = None
    json: str = ""  # canonical JSON of payload
    question: str = ""  # what makes two rows ask the same: everything before the last answer
    text: str = ""  # everything a person would read in the row
    answers: tuple[str, ...] = ()  # what a model learns to say
    tokens: int = 0
    returns: bool = False  # whether the row had CR LF
    counts: dict[str, int] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    def note(self, reason: str, detail: str = "", count: int = 1) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.details.setdefault(reason, detail)


def sample(record: Record, form: str, config: ValidateConfig) -> Sample:
    """The record in its canonical shape, or with the reason why it has none."""
    made = Sample(record)
    if record.nan and config.nan != "off":
        made.note("nan", f"column {record.nan} holds NaN or infinity")
    if record.value is None:
        made.note(record.reason, record.detail)
        return made
    try:
        made.shape, payload = convert(record.value, form)
        made.json = _encodable(digest.canonical_json(payload))
    except Unfit as error:
        made.note(error.reason, error.detail)
    except ValueError:  # canonical JSON refuses NaN
        made.note("schema", "NaN or infinity inside the row")
    else:
        made.payload = payload
        made.returns = _has_return(record.value)
        _read(made, payload)
        if record.value.get("finish_reason") == "length" and config.truncated_answer != "off":
            made.note("truncated_answer", "finish_reason is length")
    return made


def _has_return(value: Any) -> bool:
    if isinstance(value, str):
        return "\r" in value
    if isinstance(value, dict):
        return any(map(_has_return, value.values()))
    return isinstance(value, list) and any(map(_has_return, value))


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unfit(
            f"half a character (a lone surrogate, U+{ord(text[error.start]):04X}): the text was cut or wrongly decoded",
            "not_utf8",
        ) from None
    return text


def _read(made: Sample, payload: dict[str, Any]) -> None:
    """Fill question, answers and text."""
    if made.shape == "messages":
        chat = payload["messages"]
        last = next((i for i in range(len(chat) - 1, -1, -1) if chat[i]["role"] == "assistant"), len(chat))
        made.question = digest.canonical_json([_bare(m) for m in chat[:last]])
        made.answers = tuple(m["content"] for m in chat if is_trained(m) and not m.get("tool_calls"))
        made.text = "\n".join(_words(m) for m in chat)
        return
    one, *others = FIELDS[made.shape]
    made.question = _key(payload[one])
    made.answers = tuple(_said(payload[name]) for name in others if made.shape != "tokenized")
    if made.shape == "text":
        made.answers = (payload["text"],)
    if made.shape == "kto":
        made.question, made.answers = made.question + _key(payload["completion"]), (_said(payload["completion"]),)
    if made.shape != "tokenized":
        made.text = "\n".join(dict.fromkeys((_said(payload[one]), *made.answers)))


# shape → the field that asks, then the fields that answer.
FIELDS = {
    "prompt_completion": ("prompt", "completion"), "text": ("text",), "preference": ("prompt", "chosen", "rejected"), "kto": ("prompt", "completion"),
    "classification": ("text", "label"), "seq2seq": ("source", "target"), "tokenized": ("input_ids", "labels"),
}  # fmt: skip


def is_trained(message: dict[str, Any]) -> bool:
    """Whether a turn carries loss."""
    return message["role"] == "assistant" and message.get("train", True) is not False and message.get("weight", 1) != 0


def _bare(message: dict[str, Any]) -> list[Any]:
    return [message["role"], message["content"], message.get("tool_calls")]


def _key(part: Any) -> str:
    return part if isinstance(part, str) else digest.canonical_json(part)


def _said(part: Any) -> str:
    return part if isinstance(part, str) else "\n".join(_words(m) for m in part)


def _words(message: dict[str, Any]) -> str:
    extra = [message[key] for key in ("reasoning_content",) if isinstance(message.get(key), str)]
    calls = [json.dumps(message["tool_calls"], ensure_ascii=False)] if message.get("tool_calls") else []
    return "\n".join([*extra, message["content"], *calls])
