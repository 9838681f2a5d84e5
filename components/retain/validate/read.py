"""Files to records, one by one: JSON lines, JSON arrays, CSV, Parquet, plain text; plain, gzip or zstd by their first bytes.

A record that cannot be read is a record all the same, with its row number, its raw text and what is wrong with it.
"""

import codecs
import csv
import io
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from retain.errors import ConfigError, DataRefused

KNOWN = ".jsonl, .json, .csv, .tsv, .parquet or .txt, plain or with .gz or .zst"
SUFFIXES = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".txt": "text", ".text": "text", ".md": "text", ".parquet": "parquet"}  # fmt: skip
GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
READ_CHARS = 1 << 20
DECODER, END = json.JSONDecoder(), object()


@dataclass(frozen=True)
class Record:
    """One row of a file. ``row`` counts from 1: lines of JSON lines and text, data rows elsewhere."""

    row: int
    value: dict[str, Any] | None
    raw: str | None = None  # None: the JSON of value
    reason: str = ""  # why value is None
    detail: str = ""
    nan: str = ""  # the column that holds NaN or infinity

    def text(self) -> str:
        """The row as it stood in the file, or as JSON where a file has no text of a row; always encodable."""
        text = self.raw if self.raw is not None else json.dumps(self.value, ensure_ascii=False, default=str)
        return text.encode("utf-8", "backslashreplace").decode()


def records(path: Path, *, text_chars: int = 0) -> Iterator[Record]:
    """The records of a file, in order. Raises ConfigError for a file that is not there, DataRefused for one that is
    empty, cut short or of an unknown kind."""
    if not path.is_file():
        raise ConfigError("there is no such data file", got=path, expected=KNOWN, fix="check data.datasets[].path")
    found = _read(path, text_chars)
    try:
        first = next(found, None)
        if first is None:
            raise DataRefused(
                "this data file is empty",
                where=str(path),
                expected="at least one row",
                fix="was it written to the end?",
            )
        yield from itertools.chain([first], found)
    except (OSError, UnicodeError) as error:
        raise DataRefused(
            "this data file cannot be read to its end",
            where=str(path),
            got=str(error),
            fix="it may be cut short or damaged: fetch it again",
        ) from error


def _read(path: Path, text_chars: int) -> Iterator[Record]:
    with _opened(path) as stream:
        kind = _kind(path, _peek(stream))
        if kind == "parquet":
            yield from _parquet(path)
        elif kind == "csv":
            yield from _csv(stream)
        elif kind == "text":
            yield from _pieces(stream, text_chars)
        elif _peek(stream).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
            yield from _array(stream, path)
        else:
            yield from _lines(stream)


def _opened(path: Path) -> io.BufferedReader:
    """The unpacked bytes. Arrow unpacks because it tells a stream that was cut short from one that ended."""
    with path.open("rb") as stream:
        head = stream.read(4)
    packing = "gzip" if head.startswith(GZIP) else "zstd" if head == ZSTD else ""
    if not packing:
        return path.open("rb")
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression=packing))


def _peek(stream: io.BufferedReader) -> bytes:
    return stream.peek(512)[:512]


def _kind(path: Path, head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataRefused(
            "this data file is UTF-16",
            where=str(path),
            expected="UTF-8",
            fix="save it as UTF-8: iconv -f UTF-16 -t UTF-8",
        )
    if head.startswith(PARQUET):
        return "parquet"
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in {".gz", ".zst", ".zstd"}]
    if suffixes and suffixes[-1] in SUFFIXES:
        return SUFFIXES[suffixes[-1]]
    if head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in {b"{", b"["}:
        return "json"
    raise DataRefused(
        "this kind of data file is not known", where=str(path), got=path.suffix or "no suffix", expected=KNOWN
    )


def _lines(stream: IO[bytes]) -> Iterator[Record]:
    """Lines end with a line feed and nothing else: U+2028 and U+0085 are ordinary characters inside a value."""
    for number, line in enumerate(stream, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield _line(number, line.rstrip(b"\r\n"))


def _line(number: int, line: bytes) -> Record:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return Record(
            number,
            None,
            line.decode("utf-8", "backslashreplace"),
            "not_utf8",
            f"byte {error.start + 1} of the line is not UTF-8",
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Record(number, None, text, "not_json", f"not JSON: {error}")
    return _checked(number, value, text)


def _checked(number: int, value: Any, text: str | None) -> Record:
    if not isinstance(value, dict):
        raw = text if text is not None else json.dumps(value)
        return Record(
            number, None, raw, "schema", f"a row is a JSON object with named columns, this is {type(value).__name__}"
        )
    return Record(number, value, text)


@contextmanager
def _as_text(stream: IO[bytes], *, errors: str = "strict", newline: str = "") -> Iterator[io.TextIOWrapper]:
    """The stream as text while the block lasts; it stays open for whoever opened it."""
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors=errors, newline=newline)  # type: ignore[type-var]
    try:
        yield text
    finally:
        text.detach()


def _array(stream: IO[bytes], path: Path) -> Iterator[Record]:
    """The elements of one JSON array, decoded as they arrive: the memory of one element, not of the file."""
    with _as_text(stream) as source:
        buffer, at = source.read(READ_CHARS).lstrip()[1:], 0
        for number in itertools.count(1):
            value, buffer, at = _element(source, buffer, at, path, number)
            if value is END:
                return
            yield _checked(number, value, None)


def _element(source: io.TextIOWrapper, buffer: str, at: int, path: Path, number: int) -> tuple[Any, str, int]:
    """(the next element or END, the text read ahead, the place behind the element in it)."""
    while True:
        at = _behind(buffer, at)
        if buffer[at : at + 1] == "]":
            return END, buffer, at
        try:
            value, end = DECODER.raw_decode(buffer, at)
            return value, buffer, end
        except (ValueError, RecursionError) as error:
            more = source.read(max(READ_CHARS, len(buffer)))
            if not more:
                raise _broken_array(path, number, error) from None
            buffer, at = buffer[at:] + more, 0


def _behind(buffer: str, at: int) -> int:
    """The place of the next element or of the closing bracket."""
    while at < len(buffer) and buffer[at] in " \t\r\n,":
        at += 1
    return at


def _broken_array(path: Path, number: int, error: Exception) -> DataRefused:
    return DataRefused(
        "this JSON array breaks off or is not JSON", where=f"{path}, element {number}", got=str(error).partition(":")[0],
        expected="[{…}, {…}]", fix="mend that element; as JSON lines (one object a line) only the broken row would be lost",
    )  # fmt: skip


def _csv(stream: IO[bytes]) -> Iterator[Record]:
    csv.field_size_limit(1 << 30)
    with _as_text(stream, errors="surrogateescape") as text:
        head = text.readline()
        if not head.strip():
            return
        delimiter = max(",;\t|", key=head.count)
        rows = csv.reader(itertools.chain([head], text), delimiter=delimiter)
        names = next(rows)
        for number, cells in enumerate((cells for cells in rows if cells), start=1):
            yield _cells(number, names, cells, delimiter)


def _cells(number: int, names: list[str], cells: list[str], delimiter: str) -> Record:
    if len(cells) != len(names):
        return Record(number, None, delimiter.join(cells), "schema", f"{len(cells)} cells, the header has {len(names)}")
    value: dict[str, Any] = {n: float("nan") if c in {"NaN", "nan"} else c for n, c in zip(names, cells, strict=True)}
    return Record(number, value)


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        numbers = itertools.count(1)
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1000):
                yield from (Record(next(numbers), row) for row in batch.to_pylist())
    except pa.ArrowInvalid as error:
        raise DataRefused(
            "this Parquet file is damaged", where=str(path), got=str(error).splitlines()[0], fix="fetch it again"
        ) from error


def _pieces(stream: IO[bytes], chars: int) -> Iterator[Record]:
    """Running text in rows of about ``chars`` characters, cut at blank lines, at the latest after twice as many at any line."""
    kept: list[str] = []
    first, size = 1, 0
    with _as_text(stream, errors="surrogateescape", newline="\n") as text:
        for number, line in enumerate(text, start=1):
            kept.append(line)
            size += len(line)
            if chars and size >= chars and (not line.strip() or size >= 2 * chars):
                yield from _piece(first, kept)
                kept, first, size = [], number + 1, 0
    yield from _piece(first, kept)


def _piece(first: int, lines: list[str]) -> Iterator[Record]:
    text = "".join(lines)
    if text.strip():
        yield Record(first, {"text": text}, text)
