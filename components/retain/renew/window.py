"""A window of days over data that is kept by the day: ``s3://bucket/tickets/{day}.jsonl`` becomes one entry for each day."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from retain.errors import ConfigError, DataRefused

MARKS = ("{day}", "{yyyy}", "{mm}", "{dd}")  # 2026-01-31, 2026, 01, 31
Entry = Mapping[str, Any]


def days(count: int, end: str) -> list[date]:
    """The ``count`` days before ``end`` (ISO, or today in UTC), oldest first."""
    try:
        last = datetime.now(UTC).date() if end == "today" else date.fromisoformat(end)
    except ValueError:
        raise ConfigError("data_window_end is no day", got=end, expected="YYYY-MM-DD or today") from None
    return [last - timedelta(days=n) for n in range(count, 0, -1)]


def expand(entries: Sequence[Entry], window: Sequence[date], there: Callable[[str], bool]) -> tuple[list[dict[str, Any]], list[str]]:  # fmt: skip
    """(dataset entries with every marked one once a day, addresses of days that have no file).

    ConfigError where the window and the addresses do not fit together, DataRefused (7) where an entry has no day at all.
    """
    marked = [entry for entry in entries if any(mark in entry["path"] for mark in MARKS)]
    if bool(window) != bool(marked):
        raise ConfigError(
            "the data window and the addresses do not fit together", where="data_window_days",
            got=f"{len(window)} days, and {len(marked)} addresses with a day in them", expected="both or neither",
            fix=f"write a day into an address ({', '.join(MARKS)}), or set data_window_days: 0",
        )  # fmt: skip
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    for entry in entries:
        daily = list(_daily(entry, window)) if entry in marked else [dict(entry)]
        held = [one for one in daily if entry not in marked or there(one["path"])]
        if not held:
            raise DataRefused("no day of the window has a file", where=entry["path"], got=f"{window[0]} to {window[-1]}", expected="at least one", fix="check data_window_end and the address")  # fmt: skip
        found += held
        missing += [one["path"] for one in daily if one not in held]
    return found, missing


def _daily(entry: Entry, window: Iterable[date]) -> Iterable[dict[str, Any]]:
    stem = entry.get("name") or PurePosixPath(_without_marks(entry["path"])).stem.strip("-_.") or "data"
    for day in window:
        path = entry["path"]
        for mark, text in zip(MARKS, (f"{day:%Y-%m-%d}", f"{day:%Y}", f"{day:%m}", f"{day:%d}"), strict=True):
            path = path.replace(mark, text)
        yield {**entry, "path": path, "name": f"{stem}-{day:%Y-%m-%d}"}


def _without_marks(path: str) -> str:
    for mark in MARKS:
        path = path.replace(mark, "")
    return path
