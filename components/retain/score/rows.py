"""Prompts of the suites `safety` and `open`: those that are shipped, and rows of the user's own behind them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from retain.errors import DataRefused

OWN = "own"


def read(shipped: Path, own: str, words: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Any]]:
    """Documents {id, cluster, stratum, prompt, …}; ``words``: further columns and the words that may stand in them.

    A row of the user's has `prompt` and those columns, and may have `id` and `cluster`; DataRefused names the first that
    has not.
    """
    yield from (json.loads(line) for line in shipped.read_text(encoding="utf-8").splitlines())
    if own:
        for number, line in enumerate(Path(own).read_text(encoding="utf-8").split("\n"), 1):
            if line.strip():
                yield _row(line, f"{own}, row {number}", number, words)


def _row(line: str, where: str, number: int, words: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    try:
        row = dict(json.loads(line))
    except (ValueError, TypeError):
        raise DataRefused("a row of prompts is not a JSON object", where=where, got=line[:80]) from None
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise DataRefused("a row of prompts has no prompt", where=where, got=", ".join(row), expected="prompt: a text")
    for column, allowed in words.items():
        if row.get(column) not in allowed:
            raise DataRefused(f"a row of prompts has no known {column}", where=where, got=row.get(column), expected=" or ".join(allowed))  # fmt: skip
    name = str(row.get("id") or f"{OWN}-{number}")
    known = {column: row[column] for column in words}
    return {"id": name, "cluster": str(row.get("cluster") or name), "stratum": OWN, "prompt": row["prompt"], **known}
