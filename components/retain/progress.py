"""Progress with rate and time left: a bar on a terminal, a line every ten seconds in a pod's log."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")
LOG_EVERY_SECONDS = 10.0


class Progress:
    """Counts ``total`` units of work (0 = unknown) and shows ``note`` (a loss, say) beside the rate.

    >>> with Progress("score", total=400, unit="items") as progress:
    ...     progress.advance(400)
    """

    def __init__(self, label: str, *, total: int = 0, unit: str = "rows") -> None:
        self.label, self.total, self.unit, self.done, self.note = label, total, unit, 0, ""
        self._start = self._shown = time.monotonic()
        self._tty = sys.stderr.isatty()
        self._rate = ""

    def __enter__(self) -> "Progress":
        return self

    def advance(self, count: int = 1, *, note: str = "", rate: str = "") -> None:
        """``count`` further units are done; ``rate`` replaces the plain units/s (tokens/s in a training)."""
        self.done += count
        self.note = note or self.note
        self._rate = rate or f"{self.done / max(time.monotonic() - self._start, 1e-9):,.1f} {self.unit}/s"
        if time.monotonic() - self._shown >= (0.2 if self._tty else LOG_EVERY_SECONDS):
            self._show()

    def _show(self, end: str = "") -> None:
        self._shown = time.monotonic()
        end = end or ("" if self._tty else "\n")
        sys.stderr.write(("\r\x1b[K" if self._tty else "") + self.line() + end)
        sys.stderr.flush()

    def line(self) -> str:
        """What is shown: ``train 120/300 steps 40% 412 tokens/s 02:10 left loss 1.234``."""
        of = f"/{self.total} {self.unit} {100 * self.done // self.total}%" if self.total else f" {self.unit}"
        return " ".join(part for part in (self.label, f"{self.done}{of}", self._rate, self._left(), self.note) if part)

    def _left(self) -> str:
        if not self.total or not self.done:
            return ""
        seconds = int((time.monotonic() - self._start) * (self.total - self.done) / self.done)
        return f"{seconds // 60:02d}:{seconds % 60:02d} left"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.done:
            self._show(end="\n")


def track(rows: Iterable[T], label: str, *, total: int = 0, unit: str = "rows") -> Iterator[T]:
    """``rows``, counted as they go by."""
    with Progress(label, total=total, unit=unit) as progress:
        for row in rows:
            yield row
            progress.advance()
