"""One domain's entry, taken apart into what each step of its training reads."""

from collections.abc import Mapping
from typing import Any

PARTS = ("domain", "base", "sources", "checks", "rehearse", "template", "mix", "score", "train")


def take(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values of :data:`PARTS`, in that order."""
    return tuple(entry[name] for name in PARTS)
