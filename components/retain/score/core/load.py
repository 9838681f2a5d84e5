"""The documents of the suite's tasks, read from the JSON lines that lie beside this file, wherever it is installed."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def load(items: str, **_: Any) -> dict[str, Any]:
    """lm-eval's `custom_dataset`: the split `test` of one task; `items` is the stem of its file.

    lm-eval hands over the task's `metadata` too, which says nothing about the documents.
    """
    from datasets import Dataset

    lines = (HERE / f"{items}.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}
