"""An append-only file of JSON lines that remembers how far it was delivered, and survives a kill at any byte."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retain.locks import locked


class Journal:
    """Lines on disk, and how far they were sent (a byte offset in a file beside)."""

    def __init__(self, path: Path) -> None:
        self.path, self.mark = path, path.with_suffix(".sent")
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, what: str, **values: Any) -> None:
        """One line in one write; a line cut short by a kill is closed first."""
        line = json.dumps({"what": what, **values}, ensure_ascii=False) + "\n"
        with self.path.open("ab+") as stream:
            if stream.tell() and (stream.seek(-1, os.SEEK_END), stream.read(1))[1] != b"\n":
                line = "\n" + line
            stream.write(line.encode("utf-8", "surrogatepass"))

    def _sent(self) -> int:
        return int(self.mark.read_text()) if self.mark.is_file() else 0

    def waiting(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size > self._sent()

    def lines(self) -> list[dict[str, Any]]:
        """Everything that was said, sent or not."""
        data = self.path.read_bytes() if self.path.is_file() else b""
        return [line for line in map(_line, data[: data.rfind(b"\n") + 1].split(b"\n")) if line]

    def send(self, deliver: Callable[[dict[str, Any], list[dict[str, Any]]], None]) -> None:
        """``deliver(first line, lines not sent yet)``; where it raises, the mark stays and the same lines come again."""
        if not self.waiting():
            return
        with locked(self.path.with_suffix(".lock")):
            data = self.path.read_bytes()
            whole = data.rfind(b"\n") + 1
            lines = [line for line in map(_line, data[self._sent() : whole].split(b"\n")) if line]
            if lines:
                first = next(line for line in map(_line, data.split(b"\n")) if line)
                deliver(first, lines)
            partial = self.mark.with_suffix(f".{os.getpid()}.partial")
            partial.write_text(str(whole))
            partial.replace(self.mark)


def _line(raw: bytes) -> dict[str, Any]:
    """A journal line; what a kill cut short is nothing."""
    try:
        return dict(json.loads(raw)) if raw.strip() else {}
    except ValueError:
        return {}
