"""Progress with rate and time left: a bar on a terminal, a line every ten seconds in a pod's log.

A step of a local run has no terminal of its own; RETAIN_TTY then names the one its wrapper was started from.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TextIO, TypeVar

T = TypeVar("T")
LOG_EVERY_SECONDS, DRAW_EVERY_SECONDS = 10.0, 0.2
BAR_CELLS = 24


class Progress:
    """Counts ``total`` units of work (0 = unknown) and shows ``note`` (a loss, say) beside the rate.

    >>> with Progress("score", total=400, unit="items") as progress:
    ...     progress.advance(400)
    """

    def __init__(self, label: str, *, total: int = 0, unit: str = "rows") -> None:
        self.label, self.total, self.unit, self.done, self.note = label, total, unit, 0, ""
        self._start = self._drawn = self._logged = time.monotonic()
        self._rate = ""
        self._silent = (
            os.environ.get("RANK", "0") != "0"
        )  # of several processes that train together the first one speaks
        self._screen = None if self._silent else terminal()

    def __enter__(self) -> "Progress":
        return self

    def advance(self, count: int = 1, *, note: str = "", rate: str = "") -> None:
        """``count`` further units are done; ``rate`` replaces the plain units/s (tokens/s in a training)."""
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        self._rate = rate or f"{self.done / max(now - self._start, 1e-9):,.1f} {self.unit}/s"
        if self._screen and now - self._drawn >= DRAW_EVERY_SECONDS:
            self._drawn = now
            self._draw(f"\r\x1b[K{self.bar()}")
        if now - self._logged >= LOG_EVERY_SECONDS:
            self._logged = now
            self._log()

    def _log(self) -> None:
        """A line for the log; nothing where the bar itself is on stderr."""
        if self._screen is not sys.stderr and not self._silent:
            sys.stderr.write(self.line() + "\n")
            sys.stderr.flush()

    def _draw(self, text: str) -> None:
        if self._screen:
            with contextlib.suppress(OSError):  # the terminal was closed; the work goes on
                self._screen.write(text)
                self._screen.flush()

    def line(self) -> str:
        """What is shown: ``train 120/300 steps 40% 412 tokens/s 02:10 left loss 1.234``."""
        of = f"/{self.total} {self.unit} {100 * self.done // self.total}%" if self.total else f" {self.unit}"
        return " ".join(part for part in (self.label, f"{self.done}{of}", self._rate, self._left(), self.note) if part)

    def bar(self) -> str:
        """The line with a bar in front, cut to the width of a terminal."""
        full = BAR_CELLS * self.done // self.total if self.total else 0
        return f"{'━' * full}{'·' * (BAR_CELLS - full)} {self.line()}"[:150]

    def _left(self) -> str:
        if not self.total or not self.done:
            return ""
        seconds = int((time.monotonic() - self._start) * (self.total - self.done) / self.done)
        return f"{seconds // 60:02d}:{seconds % 60:02d} left"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.done:
            self._draw("\r\x1b[K" + (f"{self.line()}\n" if self._screen is sys.stderr else ""))
            self._log()
        if self._screen and self._screen is not sys.stderr:
            self._screen.close()
            self._screen = None


def terminal() -> TextIO | None:
    """Where a bar may be drawn: stderr where it is a terminal, else the one that RETAIN_TTY names, else nowhere."""
    if sys.stderr.isatty():
        return sys.stderr
    path = os.environ.get("RETAIN_TTY", "")
    try:
        return open(path, "w", encoding="utf-8") if path else None
    except OSError:
        return None


def track(rows: Iterable[T], label: str, *, total: int = 0, unit: str = "rows") -> Iterator[T]:
    """``rows``, counted as they go by."""
    with Progress(label, total=total, unit=unit) as progress:
        for row in rows:
            yield row
            progress.advance()
