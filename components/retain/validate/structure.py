"""Checks of a chat's form: who speaks, in which order, and whether there is something to learn."""

from collections.abc import Sequence
from typing import Any

from retain.validate.config import ValidateConfig
from retain.validate.sample import Sample, is_trained
from retain.validate.turns import ROLES

Message = dict[str, Any]
# Who may speak after whom; "" is the beginning.
AFTER = {
    "": ("system", "developer", "user"), "system": ("user",), "developer": ("user",), "user": ("assistant",),
    "assistant": ("user",), "call": ("tool",), "tool": ("tool", "assistant"),
}  # fmt: skip


def check(sample: Sample, config: ValidateConfig) -> None:
    """Note what is wrong with the roles, the order and the answers of one sample."""
    assert sample.payload is not None
    for reason, detail in _faults(sample.shape, sample.payload):
        if config.act(reason) != "off":
            sample.note(reason, detail)


def _faults(shape: str, payload: dict[str, Any]) -> list[tuple[str, str]]:
    if shape == "messages":
        return _roles(payload["messages"]) or [*_dialogue(payload["messages"]), *_answers(payload["messages"])]
    if shape == "tokenized":
        supervised = sum(label != -100 for label in payload["labels"][1:])
        return [] if supervised else [("no_answer", "no label beside -100")]
    if shape == "text":
        return [] if payload["text"].strip() else [("empty_answer", "the text is empty")]
    pairs = {
        "prompt_completion": ("prompt", "completion"),
        "classification": ("text", "label"),
        "seq2seq": ("source", "target"),
        "kto": ("prompt", "completion"),
    }
    asks, *answers = pairs.get(shape, ("prompt", "chosen", "rejected"))
    faults = [("empty_prompt", f"{asks} is empty")] if _blank(payload[asks]) else []
    if shape == "preference" and payload["chosen"] == payload["rejected"]:
        faults.append(("same_answers", "chosen and rejected are the same"))
    faults += [("empty_answer", f"{name} is empty") for name in answers if _blank(payload[name])]
    return faults + [
        fault for name in (asks, *answers) if isinstance(payload[name], list) for fault in _roles(payload[name])
    ]


def _blank(part: Any) -> bool:
    if isinstance(part, list):
        return not part or all(not m["content"].strip() and not m.get("tool_calls") for m in part)
    return not str(part).strip()


def _roles(chat: Sequence[Message]) -> list[tuple[str, str]]:
    unknown = next(
        (
            f"turn {i} is by '{m['role']}'; known: {', '.join(ROLES)}"
            for i, m in enumerate(chat, 1)
            if m["role"] not in ROLES
        ),
        "",
    )
    return [("unknown_role", unknown)] if unknown else []


def _dialogue(chat: Sequence[Message]) -> list[tuple[str, str]]:
    before = ""
    for number, message in enumerate(chat, start=1):
        role = message["role"]
        if role not in AFTER[before]:
            follows = f"follows {'a tool call' if before == 'call' else before}" if before else "comes first"
            return [("role_order", f"turn {number}: {role} {follows}; {' or '.join(AFTER[before])} belongs there")]
        before = "call" if message.get("tool_calls") else role
    return []


def _answers(chat: Sequence[Message]) -> list[tuple[str, str]]:
    faults = [
        ("empty_prompt", f"turn {i}, by the user, is empty")
        for i, m in enumerate(chat, 1)
        if m["role"] == "user" and not m["content"].strip()
    ][:1]
    if chat[-1]["role"] != "assistant":
        return [*faults, ("no_answer", f"the last turn is the {chat[-1]['role']}'s: the assistant's answer is missing")]
    if not any(map(is_trained, chat)):
        return [*faults, ("no_answer", "no assistant turn carries loss: all have train: false or weight: 0")]
    empty = next(
        (i for i, m in enumerate(chat, 1) if is_trained(m) and not m["content"].strip() and not m.get("tool_calls")), 0
    )
    return [*faults, ("empty_answer", f"turn {empty}, by the assistant, is empty")] if empty else faults
