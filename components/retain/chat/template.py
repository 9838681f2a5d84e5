"""One tokenizer's chat template: render text, know how it ends a turn, name what it cannot do."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from retain import digest
from retain.errors import ConfigError, DataRefused

Message = dict[str, Any]
# Keys of ours: they steer the loss and are never shown to a template.
OWN_KEYS = ("train", "weight")
PROBE = "retain0probe"


class ChatTemplate:
    """``tokenizer``'s template with fixed ``kwargs``; rendering is text, as ``apply_chat_template(tokenize=False)`` gives it."""

    def __init__(self, tokenizer: Any, kwargs: Mapping[str, Any]) -> None:
        self.tokenizer, self.kwargs = tokenizer, dict(kwargs)

    def text(self, messages: Sequence[Message], tools: Any = None, *, prompt: bool = False, where: str = "") -> str:
        """The chat as text; with ``prompt``, ready for the assistant's next turn. An empty chat is an empty text."""
        if not messages:
            return ""
        try:
            shown = [{k: v for k, v in message.items() if k not in OWN_KEYS} for message in messages]
            return str(
                self.tokenizer.apply_chat_template(
                    shown, tools=tools or None, tokenize=False, add_generation_prompt=prompt, **self.kwargs
                )
            )
        except Exception as error:
            raise DataRefused(
                "the chat template cannot render this chat", where=where, got=f"{type(error).__name__}: {error}",
                fix="check the roles and their order; some templates take no system turn or no tools",
            ) from error  # fmt: skip

    @functools.cached_property
    def markers(self) -> re.Pattern[str]:
        """Any special token of the tokenizer, longest first; matches nothing where there are none."""
        words = sorted((str(t) for t in self.tokenizer.all_special_tokens if str(t)), key=len, reverse=True)
        added = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        return re.compile("|".join(re.escape(w) for w in sorted({*words, *added}, key=len, reverse=True)) or "(?!)")

    @functools.cached_property
    def end_of_turn(self) -> str:
        """The token that closes an assistant's turn (``<|im_end|>``); empty where the template writes none."""
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE}]
        after = self.text(chat, where="a probe of the template").rpartition(PROBE)[2].lstrip()
        found = self.markers.match(after)
        return found.group() if found else ""

    @functools.cached_property
    def closing(self) -> re.Pattern[str]:
        """The end of a finished turn at the end of a text: the end-of-turn token, or another special token where a
        turn closes otherwise (a tool call), with the marks and white space that close the chat behind it."""
        marks = self.markers.pattern
        first = re.escape(self.end_of_turn) if self.end_of_turn else "(?!)"
        return re.compile(rf"(?P<turn>{first})(?:\s|{marks})*\Z|(?P<other>{marks})\s*\Z")


def has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def need_template(tokenizer: Any) -> None:
    if not has_template(tokenizer):
        raise ConfigError(
            "the tokenizer has no chat template, and the rows are chats", got="chat_template is empty",
            expected="a template in tokenizer_config.json or chat_template.jinja",
            fix="take the instruct version of the model, or map the rows to prompt and completion",
        )  # fmt: skip


def template_digest(tokenizer: Any, kwargs: Mapping[str, Any] | None = None) -> str:
    """Digest of template text, template variables and special tokens: equal digests frame a chat in equal tokens."""
    template = getattr(tokenizer, "chat_template", None) or ""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return digest.of_json({"template": template, "kwargs": dict(kwargs or {}), "special_tokens": special})
