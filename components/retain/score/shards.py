"""Finished tasks on disk, each under its full key: what survives a kill, and what a second scoring need not compute.

``RETAIN_CACHE_URI`` (s3://bucket/prefix) names a store behind the folder, shared by machines that share no disk. It comes by
environment because it changes no result: a shard is found by model, items, settings, precision, device and engine.

The batch budget that fitted is remembered beside them, and is part of every key: machines that share a store score in the
same batches. Each budget found is a file of its own, never replaced, and the smallest one counts, whoever wrote when.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from retain import digest
from retain.artifacts import ITEM_SCHEMA, check_writable, read_json, write_json
from retain.errors import ConfigError, EnvironmentFault, IntegrityError

log = logging.getLogger(__name__)
SCHEMA = "retain.score-shard/1"
BUDGET = "retain.score-budget/1"


class Shards:
    """A folder of shards `<64 hex of the key>.{parquet,json}`; the json is written last and names the digest of the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, os.environ.get("RETAIN_CACHE_URI", "").rstrip("/")
        if self.store and not self.store.startswith("s3://"):
            raise ConfigError("RETAIN_CACHE_URI cannot be used", got=self.store, expected="s3://bucket/prefix")
        check_writable(folder)

    def get(self, key: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]] | None:
        """(records, meta) of a finished task, or None. A damaged shard is not used, and said so."""
        meta_path, rows_path = self._paths(key)
        if not meta_path.is_file() and not self._fetched(rows_path, meta_path):
            return None
        try:
            meta = read_json(meta_path, schema=SCHEMA)
            if not rows_path.is_file() or digest.of_file(rows_path) != meta["items_sha256"]:
                raise IntegrityError("a kept score shard is damaged", where=str(rows_path))
        except IntegrityError as error:
            log.warning("%s; scored again", error)
            return None
        return pq.read_table(rows_path, schema=ITEM_SCHEMA).to_pylist(), meta["meta"]

    def put(self, key: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> None:
        meta_path, rows_path = self._paths(key)
        partial = rows_path.with_name(f"{rows_path.name}.{os.getpid()}.partial")
        with partial.open("wb") as stream:
            pq.write_table(
                pa.Table.from_pylist([dict(row) for row in rows], schema=ITEM_SCHEMA), stream, compression="zstd"
            )
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(rows_path)
        write_json(
            meta_path,
            {"schema": SCHEMA, "key": dict(key), "items_sha256": digest.of_file(rows_path), "meta": dict(meta)},
        )

        self._share(rows_path, meta_path)

    def budget(self, of: Mapping[str, Any]) -> int | None:
        """The smallest budget that was found for such a model on such a device (``of``), here or in the store; None: it always fitted."""
        name = _budgets(of)
        self._fetch_all(name)
        found = [int(read_json(path, schema=BUDGET)["budget"]) for path in (self.folder / name).glob("*.json")]
        return min(found, default=None)

    def put_budget(self, of: Mapping[str, Any], tokens: int) -> None:
        """Remember that ``tokens`` in a batch fitted where more did not."""
        path = self.folder / _budgets(of) / f"{tokens}.json"
        write_json(path, {"schema": BUDGET, "of": dict(of), "budget": tokens})
        self._share(path)

    def _fetch_all(self, name: str) -> None:
        if not self.store:
            return
        from retain import s3

        try:
            s3.download(f"{self.store}/{name}", s3.listing(f"{self.store}/{name}"), self.folder / name)
        except EnvironmentFault as fault:
            log.warning("%s; the batch budget begins as this machine knows it", fault)

    def _fetched(self, *paths: Path) -> bool:
        """Bring a shard from the store, its json last. A store that is away costs time, not the scoring."""
        if not self.store:
            return False
        from retain import s3

        try:
            for path in paths:
                found = s3.listing(f"{self.store}/{path.name}")
                if not found:
                    return False
                s3.download(f"{self.store}/{path.name}", found, self.folder)
        except EnvironmentFault as fault:
            log.warning("%s; scored without the shared cache", fault)
            return False
        return True

    def _share(self, *paths: Path) -> None:
        if not self.store:
            return
        from retain import s3

        try:
            s3.upload(self.store, self.folder, [path.relative_to(self.folder).as_posix() for path in paths])
        except EnvironmentFault as fault:
            log.warning("%s; what was found here is not shared", fault)

    def _paths(self, key: Mapping[str, Any]) -> tuple[Path, Path]:
        name = digest.of_json(dict(key)).removeprefix("sha256:")
        return self.folder / f"{name}.json", self.folder / f"{name}.parquet"


def _budgets(of: Mapping[str, Any]) -> str:
    """The folder of the budgets found for one kind of scoring."""
    return f"budget-{digest.of_json(dict(of)).removeprefix('sha256:')[:32]}"
