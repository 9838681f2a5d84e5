"""The words of a row without template or marks: what decontamination and reports read. Kept as rendered/texts.parquet."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retain import digest
from retain.chat.skeleton import PLAIN_KEYS

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])
FILE = "texts.parquet"


def text_of(payload: dict[str, Any]) -> str:
    """All text of a row in reading order, one line a turn; roles, tool schemas and numbers of tokens are left out."""
    messages = payload.get("messages")
    if (
        messages
        and len(payload) == 1
        and all(type(m.get("content")) is str and m.keys() <= PLAIN_KEYS for m in messages)
    ):
        return "\n".join(
            m["content"] for m in messages if m["content"]
        )  # what nearly every row is, and twenty times faster
    return "\n".join(part for part in _parts(payload) if part)


# In reading order; every name that may hold text, in any shape and in a message.
FIELDS = (
    "messages",
    "prompt",
    "source",
    "text",
    "reasoning_content",
    "content",
    "completion",
    "target",
    "chosen",
    "rejected",
    "label",
)


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _parts(part)
    elif isinstance(value, dict):
        for name in FIELDS:
            if name in value:
                yield from _parts(value[name])
        for call in value.get("tool_calls") or []:
            yield json.dumps(call, ensure_ascii=False)


class TextWriter:
    """Writes texts.parquet batch by batch; ``close`` gives the file's digest."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._writer = pq.ParquetWriter(self._path, SCHEMA, compression="zstd")

    def add(self, rows: list[dict[str, str]]) -> None:
        self._writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))

    def close(self) -> str:
        self._writer.close()
        return digest.of_file(self._path)


def count_texts(folder: Path) -> int:
    return int(pq.read_metadata(folder / FILE).num_rows)


def read_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of every row of a rendered/ folder, in order; memory: one row group."""
    with pq.ParquetFile(folder / FILE) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            yield from zip(table.column("id").to_pylist(), table.column("text").to_pylist(), strict=True)
