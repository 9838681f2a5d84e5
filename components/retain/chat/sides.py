"""Rows that judge answers (preference, kto): each answer as a prompt–completion row, so that all get one template."""

from collections.abc import Mapping
from typing import Any

Side = tuple[str, Mapping[str, Any]]


def sides(shape: str, payload: Mapping[str, Any]) -> list[Side]:
    """(shape, payload) of every text in a row: chosen and rejected of a preference, the answer of a kto row, else the row itself."""
    answers = {"preference": ("chosen", "rejected"), "kto": ("completion",)}.get(shape)
    if answers is None:
        return [(shape, payload)]
    return [("prompt_completion", {"prompt": payload["prompt"], "completion": payload[name]}) for name in answers]
