"""Finished batches on disk: a killed run goes on where it was, and the same base answers the same questions once."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain import digest
from retain.artifacts import check_writable


class BatchStore:
    """One file for one ``setup`` (base digest, questions, settings); a line a batch, flushed to the disk."""

    def __init__(self, folder: Path, setup: Mapping[str, Any]) -> None:
        check_writable(folder)
        self._path = folder / f"{digest.of_json(setup).removeprefix('sha256:')[:32]}.jsonl"
        self._batches = self._read()

    def _read(self) -> dict[int, list[dict[str, Any]]]:
        if not self._path.is_file():
            return {}
        whole, _, torn = self._path.read_bytes().rpartition(b"\n")
        if torn:  # a line that a kill has cut
            with self._path.open("r+b") as stream:
                stream.truncate(len(whole) + 1 if whole else 0)
        return {line["batch"]: line["answers"] for line in digest.iter_jsonl(whole.decode("utf-8").split("\n"))}

    def get(self, batch: int) -> list[dict[str, Any]] | None:
        return self._batches.get(batch)

    def put(self, batch: int, answers: list[dict[str, Any]]) -> None:
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"batch": batch, "answers": answers}, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._batches[batch] = answers
