"""Tokens of rows that were rendered before: chunks of rows whose borders the rows themselves decide.

A chunk ends behind a row whose digest falls on a fixed residue, so a row that is added or changed touches its own chunk
only (content-defined chunking, Muthitacharoen et al., SOSP 2001). One file a chunk, written aside and renamed.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retain import digest

SCHEMA = pa.schema([
    ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())), ("weight", pa.float64()), ("rewritten", pa.int32()),
    ("rejected_input_ids", pa.list_(pa.int32())), ("rejected_labels", pa.list_(pa.int32())),
])  # fmt: skip


@dataclass(frozen=True)
class Tokens:
    """A row as tokens, before any limit on its length; ``rejected_*``: the other side of a preference."""

    input_ids: list[int]
    labels: list[int]
    weight: float
    rewritten: int
    rejected_input_ids: list[int] | None = None
    rejected_labels: list[int] | None = None


def chunks(rows: Iterable[dict[str, Any]], size: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(digest, rows) of chunks of about ``size`` rows, at most 4 × ``size``; id, source and split do not count."""
    sha, held = hashlib.sha256(), list[dict[str, Any]]()
    for row in rows:
        one = hashlib.sha256(f"{row['shape']}\n{row['payload']}".encode("utf-8", "surrogatepass")).digest()
        sha.update(one)
        held.append(row)
        if int.from_bytes(one[:8]) % size == 0 or len(held) >= 4 * size:
            yield sha.hexdigest(), held
            sha, held = hashlib.sha256(), []
    if held:
        yield sha.hexdigest(), held


class TokenCache:
    """Chunks under one folder, for one ``setup`` (tokenizer, template, options): another setup never sees them."""

    def __init__(self, folder: Path | None, setup: Mapping[str, Any]) -> None:
        self._folder = folder / digest.of_json(setup).removeprefix("sha256:")[:32] if folder else None

    def get(self, key: str) -> list[Tokens] | None:
        """The chunk's tokens, or None; a damaged file is a chunk that is not there."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            columns = pq.read_table(path, schema=SCHEMA).to_pydict()
        except (pa.ArrowException, OSError):
            path.unlink(missing_ok=True)
            return None
        return [Tokens(*row) for row in zip(*columns.values(), strict=True)]

    def put(self, key: str, rows: Sequence[Tokens]) -> None:
        path = self._path(key)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
        with partial.open("wb") as stream:
            pq.write_table(pa.Table.from_pydict(columns, schema=SCHEMA), stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)

    def _path(self, key: str) -> Path | None:
        return self._folder / key[:2] / f"{key}.parquet" if self._folder else None
