"""A dataset folder of ten chats in three uses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import artifacts
from retain.digest import canonical_json


def dataset_row(number: int, payload: dict[str, Any], **changes: Any) -> dict[str, Any]:
    row = {"id": f"r{number}", "source": "faq", "part": "target", "split": "train", "shape": "messages", "weight": 1.0}
    return {**row, "payload": canonical_json(payload), **changes}


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    def make(rows: list[dict[str, Any]], name: str = "dataset") -> Path:
        artifacts.write_rows(tmp_path / name, "retain.dataset/1", rows)
        return tmp_path / name

    return make


@pytest.fixture
def rows(chats: list[list[dict[str, str]]]) -> list[dict[str, Any]]:
    """Eight train rows (two of them replay), one validation row, one test row."""
    uses = [{}] * 6 + [{"part": "replay", "source": "general"}] * 2 + [{"split": "validation"}, {"split": "test"}]
    return [dataset_row(i, {"messages": chat}, **use) for i, (chat, use) in enumerate(zip(chats, uses, strict=True))]
