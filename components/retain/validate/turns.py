"""Chats as messages: one way to write a turn, whoever wrote the row."""

import json
from collections.abc import Mapping
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool")
SHAREGPT_ROLES = {
    "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "bing": "assistant", "bard": "assistant",
    "function_call": "assistant", "observation": "tool", "function_response": "tool", "function": "tool",
}  # fmt: skip
KEPT = ("tool_calls", "reasoning_content", "name", "tool_call_id", "train", "weight")


class Unfit(Exception):
    """A row that is not of the shape it should be: the reason's code and what is wrong; never leaves this room."""

    def __init__(self, detail: str, reason: str = "schema") -> None:
        super().__init__(detail)
        self.detail, self.reason = detail, reason


def plain(text: str) -> str:
    """Text with line feeds only."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def as_list(value: Any, column: str) -> list[Any]:
    """A list, also one that a CSV or Parquet cell holds as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise Unfit(f"{column} is text that is not a JSON list") from None
    if not isinstance(value, list | tuple):
        raise Unfit(f"{column} is {_kind(value)}, a list of turns is needed")
    if not value:
        raise Unfit(f"{column} is empty")
    return list(value)


def turn(value: Any, number: int) -> dict[str, Any]:
    """One message: role, content as text, and the keys that a template or the loss reads."""
    if not isinstance(value, Mapping):
        raise Unfit(f"turn {number} is {_kind(value)}, an object with role and content is needed")
    if not isinstance(value.get("role"), str):
        raise Unfit(f"turn {number} has no role")
    extra = {key: value[key] for key in KEPT if value.get(key) is not None}
    _check_extra(extra, number)
    message = {
        "role": value["role"].strip(),
        "content": content(value.get("content"), number, empty_allowed="tool_calls" in extra),
        **extra,
    }
    if isinstance(extra.get("reasoning_content"), str):
        message["reasoning_content"] = plain(extra["reasoning_content"])
    return message


def content(value: Any, number: int, *, empty_allowed: bool = False) -> str:
    """Content is text, or a list of text parts; a turn that only calls tools has none."""
    if isinstance(value, str):
        return plain(value)
    if value is None and empty_allowed:
        return ""
    if isinstance(value, list) and all(
        isinstance(p, Mapping) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in value
    ):
        return plain("".join(p["text"] for p in value))
    raise Unfit(f"the content of turn {number} is {_kind(value)}, text is needed")


def _check_extra(extra: Mapping[str, Any], number: int) -> None:
    if "train" in extra and not isinstance(extra["train"], bool):
        raise Unfit(f"train of turn {number} is {extra['train']!r}, true or false is needed")
    weight = extra.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight >= 0:
        raise Unfit(f"weight of turn {number} is {weight!r}, a number from 0 on is needed")
    if "tool_calls" in extra and not (
        isinstance(extra["tool_calls"], list) and all(isinstance(c, Mapping) for c in extra["tool_calls"])
    ):
        raise Unfit(f"tool_calls of turn {number} is not a list of calls")


def messages(value: Any, column: str = "messages") -> list[dict[str, Any]]:
    return [turn(m, i) for i, m in enumerate(as_list(value, column), start=1)]


def sharegpt(value: Any, system: Any = None) -> list[dict[str, Any]]:
    """``[{from, value}]`` as messages; a function_call becomes a tool call of the assistant."""
    found = [_sharegpt_turn(m, i) for i, m in enumerate(as_list(value, "conversations"), start=1)]
    return (
        [{"role": "system", "content": plain(system)}] if isinstance(system, str) and system.strip() else []
    ) + found


def _sharegpt_turn(value: Any, number: int) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise Unfit(f"turn {number} is {_kind(value)}, an object with from and value is needed")
    speaker = value.get("from", value.get("role"))
    if not isinstance(speaker, str):
        raise Unfit(f"turn {number} has no from")
    said = value.get("value", value.get("content"))
    extra = {key: value[key] for key in KEPT if key in value}
    if speaker == "function_call":
        return turn({**extra, "role": "assistant", "content": "", "tool_calls": _calls(said, number)}, number)
    return turn({**extra, "role": SHAREGPT_ROLES.get(speaker, speaker), "content": said}, number)


def _calls(said: Any, number: int) -> list[dict[str, Any]]:
    try:
        value = json.loads(said) if isinstance(said, str) else said
    except ValueError:
        raise Unfit(f"the function call of turn {number} is not JSON") from None
    calls = value if isinstance(value, list) else [value]
    if not all(isinstance(call, Mapping) and "name" in call for call in calls):
        raise Unfit(f"the function call of turn {number} has no name")
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments", {})}}
        for call in calls
    ]


def tools(value: Any) -> list[Any]:
    """Tool descriptions as ``[{type: function, function: {…}}]``; none is an empty list."""
    if value is None or value in ("", "[]"):
        return []
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise Unfit("tools is text that is not JSON") from None
    if not (isinstance(found, list) and all(isinstance(tool, Mapping) for tool in found)):
        raise Unfit("tools is not a list of tool descriptions")
    return [dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)} for tool in found]


def _kind(value: Any) -> str:
    return (
        "missing"
        if value is None
        else {"dict": "an object", "list": "a list", "str": "text"}.get(type(value).__name__, f"{value!r}"[:40])
    )
