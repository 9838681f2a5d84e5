"""The judge's replies on disk, one JSON line each: paid for once, found again after a kill."""

import json
import os
from pathlib import Path
from threading import Lock
from typing import Any

from retain import digest
from retain.endpoint import Reply
from retain.locks import locked


class Replies:
    """Replies by the digest of address and request; two processes may write to the same file."""

    def __init__(self, path: Path) -> None:
        self.path, self._guard = path, Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known = dict(filter(None, map(_line, path.read_bytes().split(b"\n")))) if path.is_file() else {}

    def key(self, endpoint: str, body: dict[str, Any]) -> str:
        return digest.of_json([endpoint, body])

    def get(self, key: str) -> Reply | None:
        return self._known.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """One line in one write, on the disk before it counts; a line cut short by a kill is closed first."""
        line = json.dumps({"key": key, "text": reply.text, "in": reply.tokens_in, "out": reply.tokens_out}) + "\n"
        with self._guard, locked(self.path.with_suffix(".lock")), self.path.open("ab+") as stream:
            if stream.tell() and (stream.seek(-1, os.SEEK_END), stream.read(1))[1] != b"\n":
                line = "\n" + line
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self._known[key] = reply


def _line(raw: bytes) -> tuple[str, Reply] | None:
    try:
        value = json.loads(raw)
        return value["key"], Reply(value["text"], value["in"], value["out"])
    except (ValueError, KeyError, TypeError):
        return None
