"""What the steps hand each other: one writer and one reader per shape on disk.

| folder                 | content                                                                              |
|------------------------|--------------------------------------------------------------------------------------|
| dataset/               | rows-*.parquet: DATASET_SCHEMA, info.json                                            |
| rejects/               | rows-*.parquet: REJECT_SCHEMA (raw text of the row, file, row number, reasons), info.json |
| rendered/, mixture/    | rows-*.parquet: TOKEN_SCHEMA, info.json                                              |
| adapter/               | peft layout (or changed weights) + retain.json                                       |
| model/                 | Hugging Face layout + manifest.json + proof.json                                     |
| scores/                | items.parquet: ITEM_SCHEMA, scores.json                                              |

A folder appears whole or not at all: rows go to a partial name, and info.json is written last. An ``info.json`` with a
schema that is not known is an integrity error (exit 6).
"""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retain import digest
from retain.errors import EnvironmentFault, IntegrityError

ROWS_PER_FILE = 50_000
ROWS_PER_GROUP = 2_000

# `payload` is the canonical JSON of the row in its shape (retain.validate.shapes): one column fits every shape.
# split: train | validation | test (never trained on). part: target | replay | safety.
DATASET_SCHEMA = pa.schema([
    ("id", pa.string()), ("source", pa.string()), ("part", pa.string()), ("split", pa.string()),
    ("shape", pa.string()), ("weight", pa.float64()), ("payload", pa.string()),
])  # fmt: skip
REJECT_SCHEMA = pa.schema([
    ("file", pa.string()), ("row", pa.int64()), ("source", pa.string()), ("reasons", pa.list_(pa.string())), ("raw", pa.string()),
])  # fmt: skip
# rejected_*: the other side of a preference row, whose chosen side is input_ids and labels; desirable: the judgement of a
# kto row. Null in every other row.
TOKEN_SCHEMA = pa.schema([
    ("id", pa.string()), ("source", pa.string()), ("part", pa.string()), ("split", pa.string()), ("weight", pa.float64()),
    ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())), ("n_supervised", pa.int32()),
    ("rejected_input_ids", pa.list_(pa.int32())), ("rejected_labels", pa.list_(pa.int32())), ("desirable", pa.bool_()),
])  # fmt: skip
# chance, p_gold in [0, 1]; value is the metric itself (acc: 0 or 1). Unique on (task, doc_id, metric).
ITEM_SCHEMA = pa.schema([
    ("task", pa.string()), ("task_version", pa.string()), ("doc_id", pa.string()), ("doc_hash", pa.string()),
    ("cluster", pa.string()), ("stratum", pa.string()), ("metric", pa.string()), ("higher_is_better", pa.bool_()),
    ("value", pa.float64()), ("chance", pa.float64()), ("p_gold", pa.float64()), ("output", pa.string()),
    ("gold", pa.string()), ("truncated", pa.bool_()),
])  # fmt: skip

SCHEMAS = {
    "retain.dataset/1": DATASET_SCHEMA,
    "retain.rejects/1": REJECT_SCHEMA,
    "retain.rendered/1": TOKEN_SCHEMA,
    "retain.mixture/1": TOKEN_SCHEMA,
}
IGNORED_LABEL = -100


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write aside, flush to the disk, rename: a reader sees the old file or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)


def flush(path: Path) -> None:
    """Wait until a finished file is on the disk, so that a rename after it never shows a half."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def read_json(path: Path, *, schema: str) -> dict[str, Any]:
    """A JSON file whose ``schema`` field must be ``schema``."""
    if not path.is_file():
        raise IntegrityError(
            "an artifact is missing or was not finished",
            where=str(path),
            got="no such file",
            expected=schema,
            fix="run the step that writes it again",
        )
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntegrityError(
            "an artifact is damaged",
            where=str(path),
            got=str(error),
            expected="JSON",
            fix="run the step that writes it again",
        ) from None
    if value.get("schema") != schema:
        raise IntegrityError(
            "an artifact has a shape that is not known here",
            where=str(path),
            got=value.get("schema"),
            expected=schema,
            fix="use the version of retain that wrote it",
        )
    return value


def write_rows(folder: Path, schema: str, rows: Iterable[Mapping[str, Any]], **info: Any) -> dict[str, Any]:
    """Stream ``rows`` into ``folder`` (memory: one row group) and return what went into info.json: digest, rows, ``info``."""
    writer = RowWriter(folder, schema)
    for row in rows:
        writer.add(row)
    return writer.finish(**info)


class RowWriter:
    """The rows of one folder, one by one: for work that fills two folders from one stream. Without ``finish`` there is
    no info.json, and no reader takes the folder."""

    def __init__(self, folder: Path, schema: str) -> None:
        check_writable(folder)
        for old in [*folder.glob("rows-*.parquet"), folder / "info.json"]:
            old.unlink(missing_ok=True)
        self.folder, self.schema, self.count = folder, schema, 0
        self._shape, self._sha, self._batch = SCHEMAS[schema], digest.Rows(), list[Mapping[str, Any]]()
        self._file: pq.ParquetWriter | None = None

    def add(self, row: Mapping[str, Any]) -> None:
        self._sha.add(row)
        self._batch.append(row)
        self.count += 1
        if len(self._batch) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._file is None:
            number = (self.count - 1) // ROWS_PER_FILE if self.count else 0
            self._file = pq.ParquetWriter(self.folder / f"rows-{number:05d}.parquet", self._shape, compression="zstd")
        if self._batch:
            self._file.write_table(pa.Table.from_pylist([dict(row) for row in self._batch], schema=self._shape))
        self._batch = []
        if self.count % ROWS_PER_FILE == 0 and self.count:
            self.close()

    def close(self) -> None:
        """Let go of the open file; the folder stays unfinished."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def finish(self, **info: Any) -> dict[str, Any]:
        """Write what is left, then info.json: schema, digest, rows and ``info``."""
        if self._batch or not self.count:
            self._flush()
        self.close()
        result = {"schema": self.schema, "digest": self._sha.digest(), "rows": self.count, **info}
        write_json(self.folder / "info.json", result)
        return result


def read_info(folder: Path, schema: str) -> dict[str, Any]:
    return read_json(folder / "info.json", schema=schema)


def read_rows(folder: Path, schema: str) -> Iterator[dict[str, Any]]:
    """The rows of a finished folder, in order; memory: one row group."""
    read_info(folder, schema)
    for table in read_tables(folder):
        yield from table.to_pylist()


def read_tables(folder: Path) -> Iterator[pa.Table]:
    """Row groups as Arrow tables, for work on whole columns."""
    for path in sorted(folder.glob("rows-*.parquet")):
        try:
            with pq.ParquetFile(path) as parquet:
                for group in range(parquet.num_row_groups):
                    yield parquet.read_row_group(group)
        except pa.ArrowInvalid as error:
            raise IntegrityError("a file of rows is damaged", where=str(path), got=str(error).splitlines()[0], fix="run the step that writes it again") from error  # fmt: skip


def write_scores(folder: Path, items: Iterable[Mapping[str, Any]], meta: Mapping[str, Any]) -> dict[str, Any]:
    """scores/: items sorted by (task, doc_id, metric), so that the same scores are the same bytes; duplicates are refused."""
    check_writable(folder)
    rows = sorted((dict(item) for item in items), key=_item_key)
    for one, two in itertools.pairwise(rows):
        if _item_key(one) == _item_key(two):
            raise IntegrityError(
                "an item was scored twice",
                where=f"task {one['task']}, doc_id {one['doc_id']}, metric {one['metric']}",
                expected="one value per item and metric",
            )
    pq.write_table(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), folder / "items.parquet", compression="zstd")
    items_sha = digest.of_file(folder / "items.parquet")
    result = {**meta, "schema": "retain.scores/1", "items_sha256": items_sha}
    write_json(folder / "scores.json", result)
    return result


def _item_key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return (row["task"], row["doc_id"], row["metric"])


SCORES_NEED = ("model_digest", "items_sha256", "tasks")


def scores_meta(folder: Path) -> dict[str, Any]:
    """The content of scores.json; IntegrityError where it lacks what a comparison rests on."""
    meta = read_json(folder / "scores.json", schema="retain.scores/1")
    if lacking := [name for name in SCORES_NEED if not meta.get(name)]:
        raise IntegrityError("a score artifact lacks what a comparison rests on", where=str(folder / "scores.json"), got=f"no {', '.join(lacking)}", fix="score again")  # fmt: skip
    return meta


def read_scores(folder: Path) -> tuple[pa.Table, dict[str, Any]]:
    """(items as an Arrow table of ITEM_SCHEMA, scores.json); the table's file must have the digest that scores.json states."""
    meta = scores_meta(folder)
    got = digest.of_file(folder / "items.parquet")
    if got != meta["items_sha256"]:
        raise IntegrityError(
            "the items of a score artifact were changed after they were written",
            where=str(folder),
            got=got,
            expected=meta["items_sha256"],
            fix="score again",
        )
    return pq.read_table(folder / "items.parquet", schema=ITEM_SCHEMA), meta


def check_writable(folder: Path) -> None:
    """Make the folder and prove that it takes a file, before hours of work are spent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.urandom(6).hex()}"
        probe.write_bytes(b"0" * 4096)
        probe.unlink()
    except OSError as error:
        raise EnvironmentFault(
            "this folder cannot be written",
            where=str(folder),
            got=error.strerror or str(error),
            fix="free some space or choose another output folder",
        ) from error
