"""The mask preview's rows, taken out of the page that the step `template` wrote: text, and which of it carries loss."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

ROWS_OF_A_SOURCE = 2


@dataclass
class Excerpt:
    """One row: heading of its source, what stands above it, and runs of (text, carries loss)."""

    source: str
    head: str
    runs: list[tuple[str, bool]] = field(default_factory=list)


@dataclass
class Excerpts:
    """title: the preview's own summary."""

    title: str = ""
    rows: list[Excerpt] = field(default_factory=list)


def read_preview(html: str) -> Excerpts:
    """The rows of a preview page, a few of each source; only text and marks are kept, no markup of the page survives."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.found


class _Reader(HTMLParser):
    """h1: title; h3: a source; p.soft: a row's head; pre: a row, mark: carries loss."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found = Excerpts()
        self._in: list[str] = []
        self._source = self._head = ""
        self._row: Excerpt | None = None
        self._of_source = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"h1", "h3", "p", "pre", "mark"}:
            self._in.append(tag)
        if tag == "h3":
            self._source, self._of_source = "", 0
        elif tag == "p":
            self._head = ""
        elif tag == "pre":
            self._row = Excerpt(self._source, self._head)

    def handle_endtag(self, tag: str) -> None:
        if self._in and self._in[-1] == tag:
            self._in.pop()
        if tag == "pre" and self._row is not None:
            self._of_source += 1
            if self._of_source <= ROWS_OF_A_SOURCE:
                self.found.rows.append(self._row)
            self._row = None

    def handle_data(self, data: str) -> None:
        where = self._in[-1] if self._in else ""
        if self._row is not None:
            self._row.runs.append((data, "mark" in self._in))
        elif where == "h1":
            self.found.title += data
        elif where == "h3":
            self._source += data
        elif where == "p":
            self._head += data
