"""Open questions for a judge; their own metric is only how many words an answer has."""

from pathlib import Path
from typing import Any

from retain.score.rows import read

SHIPPED = Path(__file__).parent / "prompts.jsonl"


def load(rows: str = "", **_: Any) -> dict[str, Any]:
    """lm-eval's `custom_dataset`; `rows` is a file of the user's own beside the shipped questions."""
    from datasets import Dataset

    return {"test": Dataset.from_list(list(read(SHIPPED, rows, {})))}


def process(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    return {"words": float(len(results[0].split()))}
