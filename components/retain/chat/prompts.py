"""The other side of training: the prompt a model is asked with, in the same template, and what it should have said."""

from collections.abc import Mapping
from typing import Any

from retain.chat.options import ChatOptions
from retain.chat.render import Renderer, as_messages, two_parts
from retain.chat.spans import ASSISTANT
from retain.errors import DataRefused


def prompt_ids(
    tokenizer: Any, shape: str, payload: Mapping[str, Any], options: ChatOptions | None = None, *, where: str = ""
) -> tuple[list[int], str]:
    """(token ids of everything before the last answer, that answer as text): what a target metric generates from."""
    renderer = Renderer(tokenizer, options)
    if shape == "messages":
        return _chat_prompt(renderer, list(payload["messages"]), payload.get("tools"), where)
    prompt, completion = two_parts(shape, payload, where)
    if (
        isinstance(prompt, str)
        and isinstance(completion, str)
        and (renderer.options.encoder_decoder or not renderer.as_chat())
    ):
        return list(tokenizer(prompt, verbose=False)["input_ids"]), completion
    chat = [*as_messages(prompt, "user"), *as_messages(completion, "assistant")]
    return _chat_prompt(renderer, chat, payload.get("tools"), where)


def _chat_prompt(renderer: Renderer, messages: list[dict[str, Any]], tools: Any, where: str) -> tuple[list[int], str]:
    last = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].get("role") in ASSISTANT), None)
    if last is None:
        raise DataRefused("a chat to ask from has no answer to compare with", where=where, expected="an assistant turn")
    text = renderer.template.text(messages[:last], tools, prompt=True, where=where)
    ids = renderer.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return list(ids), _text_of(messages[last].get("content"))


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content or "")
