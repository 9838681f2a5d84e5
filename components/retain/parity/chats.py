"""Chats on which templates differ: each one goes wrong with another fault of a server's template."""

from typing import Any

Message = dict[str, str]
LONG = "The lighthouse keeper wrote down the hour, the wind and every ship that passed. " * 12


def chats(tokenizer: Any) -> dict[str, list[Message]]:
    """Name → chat that waits for the assistant's next turn."""
    mark = str(tokenizer.eos_token or tokenizer.pad_token or "</s>")
    return {
        "one question": _chat("Where does the river Elbe begin?"),  # a default system turn, a missing generation prompt
        "with a system turn": _chat("Name a prime number.", system="Answer in one word."),
        "an empty system turn": _chat("Name a prime number.", system=""),
        "three turns": _chat(
            "Name a tree.", "An oak.", "And one that keeps its leaves?"
        ),  # turns that are closed otherwise
        "five turns": _chat("Name a tree.", "An oak.", "Another?", "A spruce.", "Which is taller?"),
        "white space around": _chat("  \n indented, and a line below\n\n"),  # templates that strip
        "many alphabets": _chat("Größe, naïve, Ελλάδα, 日本語, हिन्दी, 🙂👩‍🚀"),
        "a special token as text": _chat(f"What does {mark} mean?"),  # servers that escape, or add one of their own
        "a long one": _chat(LONG),
    }


def _chat(*turns: str, system: str | None = None) -> list[Message]:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return said if system is None else [{"role": "system", "content": system}, *said]
