"""Spans of chats that differ only in their words, found once: the fast way for the plain chats that most data is.

A template that puts the words of each turn verbatim between fixed pieces is recognised by rendering a chat of probes with
the same roles. A chat whose rendering is exactly those pieces around its own words has its spans where the probes' are;
any other chat (words trimmed, thoughts stripped, tools) takes the slow way of retain.chat.spans.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from retain.chat.spans import Spans, find_spans
from retain.chat.template import PROBE, ChatTemplate, Message
from retain.errors import DataRefused

PLAIN_KEYS = {"role", "content", "train", "weight"}


@dataclass(frozen=True)
class Skeleton:
    """Fixed pieces (one more than turns), and spans as (number of words before, offset in the piece behind them)."""

    pieces: tuple[str, ...]
    spans: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    rewritten: int

    def fit(self, full: str, words: Sequence[str]) -> Spans | None:
        """The spans of ``full`` if it is these pieces around these words, else None."""
        starts: list[int] = []
        parts: list[str] = []
        at = 0
        for piece, word in zip(self.pieces, [*words, ""], strict=True):
            starts.append(at)
            parts += (piece, word)
            at += len(piece) + len(word)
        if "".join(parts) != full:
            return None
        found = tuple((starts[i] + a, starts[j] + b) for (i, a), (j, b) in self.spans)
        return Spans(found, self.rewritten)


class Skeletons:
    """The skeletons of one template, by roles and trained turns."""

    def __init__(self, template: ChatTemplate, rewritten: str) -> None:
        self._template, self._rewritten = template, rewritten
        self._known: dict[tuple[tuple[str, ...], tuple[int, ...]], Skeleton | None] = {}

    def spans(self, full: str, messages: Sequence[Message], turns: Sequence[int]) -> Spans | None:
        """The spans of a plain chat, or None where only the slow way is sure."""
        if not all(m.keys() <= PLAIN_KEYS and isinstance(m.get("content"), str) for m in messages):
            return None
        key = (tuple(m["role"] for m in messages), tuple(turns))
        if key not in self._known:
            self._known[key] = self._build(*key)
        skeleton = self._known[key]
        return skeleton.fit(full, [m["content"] for m in messages]) if skeleton else None

    def _build(self, roles: tuple[str, ...], turns: tuple[int, ...]) -> Skeleton | None:
        words = [f"{PROBE}{i}x" for i in range(len(roles))]
        chat = [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
        try:
            full = self._template.text(chat)
            spans = find_spans(self._template, full, chat, None, turns=turns, rewritten=self._rewritten, where="")
        except DataRefused:
            return None  # the slow way names the row
        pieces, rest = [], full
        for word in words:
            piece, found, rest = rest.partition(word)
            if not found or word in rest:
                return None
            pieces.append(piece)
        pieces.append(rest)
        return Skeleton(
            tuple(pieces),
            tuple((_place(pieces, words, a), _place(pieces, words, b)) for a, b in spans.trained),
            spans.rewritten,
        )


def _place(pieces: Sequence[str], words: Sequence[str], position: int) -> tuple[int, int]:
    """(piece, offset in it) of a position in the probes' text; a position behind a word is the beginning of the next piece."""
    for number, (piece, word) in enumerate(zip(pieces, [*words, ""], strict=True)):
        if position <= len(piece):
            return number, position
        position -= len(piece) + len(word)
    raise AssertionError("a span lies inside a probe")
