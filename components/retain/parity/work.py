"""The prompt's tokens as the server counts them, beside those of the template that training and scoring used.

A template that differs from the gated one is the usual way in which a good model is served badly: a system turn that
is put in, a second start token, an assistant's turn that is not opened. Counts are what every OpenAI-compatible server
gives (``usage.prompt_tokens``); equal counts on chats that stress the template leave little room for another text, and
are no proof of equal weights.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain.chat.template import ChatTemplate, need_template, template_digest
from retain.endpoint import Endpoint
from retain.errors import DataRefused, EnvironmentFault, IntegrityError
from retain.models import load_tokenizer
from retain.parity.chats import Message, chats
from retain.parity.config import ParityConfig


@dataclass(frozen=True)
class Compared:
    """One chat: tokens of its prompt here and at the server; here is 0 where the template itself refuses the chat."""

    name: str
    here: int
    there: int

    @property
    def same(self) -> bool:
        return not self.here or self.here == self.there


@dataclass(frozen=True)
class Look:
    """template_digest: of the model's template, as it is in the lineage."""

    template_digest: str
    compared: list[Compared]

    @property
    def same(self) -> bool:
        return all(row.same for row in self.compared)


def look(config: ParityConfig, model: Path, more: Path | None = None) -> Look:
    """Ask the server with every chat, and with those of the JSON lines ``more`` (rows with ``messages``).

    EnvironmentFault (8) where it does not answer or does not count, ConfigError (2) where it refuses the request.
    """
    tokenizer = load_tokenizer(model)
    need_template(tokenizer)
    asked = {**chats(tokenizer), **(_rows(more) if more else {})}
    here = {name: _tokens(tokenizer, config, chat, name) for name, chat in asked.items()}
    wanted = {name: chat for name, chat in asked.items() if here[name]}
    extra = {"chat_template_kwargs": config.template_kwargs} if config.template_kwargs else {}
    with Endpoint(config, who="the server", stage="parity", more=extra) as endpoint:
        there = dict(zip(wanted, _counts(config, endpoint, list(wanted.values())), strict=True))
    return Look(template_digest(tokenizer, config.template_kwargs), [Compared(name, here[name], there.get(name, 0)) for name in asked])  # fmt: skip


def refuse_unless_same(found: Look, where: str) -> None:
    """IntegrityError (6) that names the first chat which the server reads otherwise."""
    if other := [row for row in found.compared if not row.same]:
        first = other[0]
        raise IntegrityError(
            f"the server reads {len(other)} of {len(found.compared)} chats otherwise than the model was gated", where=f"{where}: {first.name}",
            got=f"{first.there} prompt tokens", expected=str(first.here),
            fix="serve the template of the published folder (chat_template.jinja) and give the server no template, system turn or template variables of its own",
        )  # fmt: skip


def _tokens(tokenizer: Any, config: ParityConfig, chat: Sequence[Message], name: str) -> int:
    try:
        text = ChatTemplate(tokenizer, config.template_kwargs).text(chat, prompt=True, where=name)
    except DataRefused:  # a template without system turns: nothing to compare
        return 0
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _counts(config: ParityConfig, endpoint: Endpoint, asked: Sequence[Sequence[Message]]) -> list[int]:
    with ThreadPoolExecutor(config.workers) as pool:
        counts = [reply.tokens_in for reply in pool.map(endpoint.ask, asked)]
    if not all(counts):
        raise EnvironmentFault("the server does not count the prompt's tokens", where=config.endpoint, got="no usage.prompt_tokens", expected="an OpenAI chat completion with its usage")  # fmt: skip
    return counts


def _rows(file: Path) -> dict[str, list[Message]]:
    """The user's own chats; the last answers are left out, so that each waits for one."""
    found: dict[str, list[Message]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except ValueError:
            raise DataRefused("a line is not JSON", where=where, got=line[:80], expected='{"messages": […]}') from None
        if not isinstance(row, Mapping) or not isinstance(row.get("messages"), list) or not row["messages"]:
            raise DataRefused("a row has no chat", where=where, got=line[:80], expected='{"messages": […]}')
        chat = list(row["messages"])
        while len(chat) > 1 and chat[-1].get("role") == "assistant":
            chat.pop()
        found[f"line {number}"] = chat
    return found
