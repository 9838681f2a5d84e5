"""Rows to tokens: every shape of a dataset becomes input_ids and labels.

Two halves: a draft says which text becomes tokens and which characters of it carry loss (pure string work, one row at
a time), encoding turns many drafts into tokens at once, which is where the time goes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retain.artifacts import IGNORED_LABEL
from retain.chat.options import ChatOptions
from retain.chat.skeleton import Skeletons
from retain.chat.spans import assistant_turns, find_spans
from retain.chat.template import ChatTemplate, Message, has_template, need_template
from retain.errors import ConfigError, DataRefused

PAIRED = ("preference", "kto")


@dataclass(frozen=True)
class Rendered:
    """A row as tokens. ``labels`` are as long as ``input_ids`` with -100 where there is no loss (and always at position 0,
    which nothing predicts); for an encoder-decoder they are the target's tokens, for a classifier head one class index."""

    input_ids: list[int]
    labels: list[int]
    text: str
    weight: float = 1.0
    rewritten_turns: int = 0

    @property
    def n_supervised(self) -> int:
        return len(self.labels) - self.labels.count(IGNORED_LABEL)


@dataclass(frozen=True)
class Draft:
    """Text to encode, the ranges of characters [start, end) that carry loss, and how the tokens are framed."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()
    framed: bool = False  # the template wrote every special token; otherwise the tokenizer adds its own and EOS closes
    target: str = ""  # encoder-decoder: the text of the labels
    head: int = -1  # classifier head: the class index
    ready: tuple[tuple[int, ...], tuple[int, ...]] | None = None  # tokenized rows
    weight: float = 1.0
    rewritten: int = 0
    where: str = ""


class Renderer:
    """One tokenizer and its options; make it once for many rows."""

    def __init__(self, tokenizer: Any, options: ChatOptions | None = None) -> None:
        self.tokenizer, self.options = tokenizer, options or ChatOptions()
        self.template = ChatTemplate(tokenizer, self.options.template_kwargs)
        self._skeletons = Skeletons(self.template, self.options.rewritten_turns)

    def draft(self, shape: str, payload: Mapping[str, Any], *, where: str = "") -> Draft:
        """Which text of this row becomes tokens and where its loss lies; ``where`` names the row in errors."""
        if shape == "messages":
            return self._chat(payload["messages"], payload.get("tools"), where)
        if shape == "text":
            return Draft(payload["text"], ((0, len(payload["text"])),), where=where)
        if shape == "tokenized":
            return Draft("", ready=(tuple(payload["input_ids"]), tuple(payload["labels"])), where=where)
        if shape == "classification" and self.options.classification == "head":
            return Draft(payload["text"], head=self._class_index(payload["label"], where), where=where)
        return self._completion(*two_parts(shape, payload, where), payload.get("tools"), where)

    def _completion(self, prompt: Any, completion: Any, tools: Any, where: str) -> Draft:
        if self.options.encoder_decoder:
            return Draft(_plain(prompt, where), target=_plain(completion, where), where=where)
        if isinstance(prompt, str) and isinstance(completion, str) and not self.as_chat():
            return Draft(prompt + completion, ((len(prompt), len(prompt + completion)),), where=where)
        before, after = as_messages(prompt, "user"), as_messages(completion, "assistant")
        return self._chat([*before, *after], tools, where, first=len(before))

    def as_chat(self) -> bool:
        """Whether prompt-completion rows of plain strings become chats."""
        wish = self.options.prompt_completion
        return wish == "chat" or (wish == "auto" and has_template(self.tokenizer))

    def _chat(self, messages: Sequence[Message], tools: Any, where: str, first: int = 0) -> Draft:
        need_template(self.tokenizer)
        if self.options.encoder_decoder:
            raise _no_chats(where)
        full = self.template.text(messages, tools, where=where)
        turns = assistant_turns(messages, first)
        spans = self._skeletons.spans(full, messages, turns) if not tools else None
        spans = spans or find_spans(
            self.template, full, messages, tools, turns=turns, rewritten=self.options.rewritten_turns, where=where
        )
        weight = _common_weight([messages[i].get("weight", 1) for i in turns], where)
        return Draft(full, spans.trained, framed=True, weight=weight, rewritten=spans.rewritten, where=where)

    def _class_index(self, label: Any, where: str) -> int:
        names = self.options.class_names
        if str(label) not in names:
            raise DataRefused("a class that is not listed", where=where, got=label, expected=", ".join(names))
        return names.index(str(label))

    def encode(self, drafts: Sequence[Draft]) -> list[Rendered]:
        """Tokens of many drafts, in order; a row without a supervised token is an error that names it."""
        done: list[Rendered | None] = [None] * len(drafts)
        for framed in (True, False):
            places = [i for i, d in enumerate(drafts) if d.framed is framed and d.ready is None]
            for i, tokens in zip(places, self._tokens([drafts[i].text for i in places], framed), strict=True):
                done[i] = self._finish(drafts[i], *tokens)
        rows = [row or _ready(draft) for row, draft in zip(done, drafts, strict=True)]
        for row, draft in zip(rows, drafts, strict=True):
            if not row.n_supervised:
                raise nothing_supervised(draft.where, row.rewritten_turns)
        return rows

    def _tokens(self, texts: list[str], framed: bool) -> list[tuple[list[int], Any]]:
        """(ids, character → token index) of each text; framed texts get no special token beside their own."""
        if not texts:
            return []
        if not self.tokenizer.is_fast:
            raise ConfigError(
                "this tokenizer does not tell which characters a token stands for", got=type(self.tokenizer).__name__,
                expected="a fast tokenizer (tokenizer.json)", fix="convert it once: AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...)",
            )  # fmt: skip
        batch = self.tokenizer(
            texts, add_special_tokens=not framed, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )  # fmt: skip
        return [(ids, encoding) for ids, encoding in zip(batch["input_ids"], batch.encodings, strict=True)]

    def _finish(self, draft: Draft, ids: list[int], encoding: Any) -> Rendered:
        if draft.head >= 0:
            return Rendered(ids, [draft.head], draft.text)
        if draft.target:
            return Rendered(self._closed(ids), self._closed(self.tokenizer(draft.target)["input_ids"]), draft.text)
        labels = [IGNORED_LABEL] * len(ids)
        for start, end in draft.spans:
            first, last = _token_range(encoding, start, end)
            labels[first:last] = ids[first:last]
        if not draft.framed:
            added = self._closed(ids)[len(ids) :]
            ids, labels = ids + added, labels + added
        labels[:1] = [IGNORED_LABEL] * len(labels[:1])
        return Rendered(ids, labels, draft.text, draft.weight, draft.rewritten)

    def _closed(self, ids: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return ids if end is None or ids[-1:] == [end] else [*ids, end]


def _token_range(encoding: Any, start: int, end: int) -> tuple[int, int]:
    """Tokens [first, stop) that stand for a character of [start, end): one that straddles the border counts, since the
    model writes its part of it (lm-eval moves white space across that border for the same reason)."""
    first = next((t for c in range(start, end) if (t := encoding.char_to_token(c)) is not None), None)
    last = next((t for c in range(end - 1, start - 1, -1) if (t := encoding.char_to_token(c)) is not None), None)
    if first is None or last is None:
        return 0, 0
    stop, length = last + 1, len(encoding)
    # A character of several byte tokens answers with its first token; the others follow.
    while stop < length and (at := encoding.token_to_chars(stop)) and start < at[1] and at[0] < end:
        stop += 1
    return first, stop


def _ready(draft: Draft) -> Rendered:
    assert draft.ready is not None
    ids, labels = map(list, draft.ready)
    if len(ids) != len(labels):
        raise DataRefused(
            "input_ids and labels differ in length", where=draft.where, got=f"{len(ids)} and {len(labels)}", expected="one label a token, -100 for none",
        )  # fmt: skip
    return Rendered(ids, [IGNORED_LABEL, *labels[1:]] if labels else [], "")


def two_parts(shape: str, payload: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    parts = {
        "prompt_completion": ("prompt", "completion"),
        "seq2seq": ("source", "target"),
        "classification": ("text", "label"),
    }
    if shape not in parts:
        raise DataRefused(
            "this shape cannot be trained on as it stands" if shape not in PAIRED else "a row that judges answers is rendered one side at a time (retain.chat.sides)",
            where=where, got=shape, expected=", ".join(["messages", "text", "tokenized", *parts]),
        )  # fmt: skip
    one, two = (payload[name] for name in parts[shape])
    return one, str(two) if shape == "classification" else two


def as_messages(part: Any, role: str) -> list[Message]:
    return [{"role": role, "content": part}] if isinstance(part, str) else list(part)


def _plain(part: Any, where: str) -> str:
    if not isinstance(part, str):
        raise _no_chats(where)
    return part


def _no_chats(where: str) -> DataRefused:
    return DataRefused(
        "an encoder-decoder takes a source and a target, not a chat", where=where, fix="map the rows to source and target (data.datasets[].map)",
    )  # fmt: skip


def _common_weight(weights: Sequence[float], where: str) -> float:
    if len(set(weights)) > 1:
        raise DataRefused(
            "assistant turns of one chat have different weights", where=where, got=json.dumps(sorted(set(weights))),
            expected="0 (no loss) or one common weight", fix="split the chat so that each row has one weight",
        )  # fmt: skip
    return float(weights[0]) if weights else 1.0


def nothing_supervised(where: str, rewritten: int = 0) -> DataRefused:
    hint = (
        "set rewritten_turns: train, or template_kwargs that keep the turn as it is"
        if rewritten
        else "give the row an assistant turn with text and without train: false"
    )
    return DataRefused(
        "no token of this row carries loss", where=where, got="0 supervised tokens", expected="at least one", fix=hint
    )


def render(
    tokenizer: Any, shape: str, payload: Mapping[str, Any], options: ChatOptions | None = None, *, where: str = ""
) -> Rendered:
    """One row as tokens; for many rows, keep a :class:`Renderer` and encode in batches."""
    renderer = Renderer(tokenizer, options)
    return renderer.encode([renderer.draft(shape, payload, where=where)])[0]
