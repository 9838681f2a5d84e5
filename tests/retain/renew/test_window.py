"""Days of data: which entries a window makes of an address with a day in it."""

from datetime import date

import pytest

from retain.errors import ConfigError, DataRefused
from retain.renew.window import days, expand

TRAIN = {"path": "s3://rows/{yyyy}/{mm}/tickets-{day}.jsonl", "weight": 2.0}
GENERAL = {"path": "general.jsonl", "part": "replay"}
WINDOW = days(3, "2026-03-02")


def test_the_window_ends_before_its_end() -> None:
    assert [date(2026, 2, 27), date(2026, 2, 28), date(2026, 3, 1)] == WINDOW
    assert days(0, "2026-03-02") == []
    assert days(1, "today")[0] < date.today()
    with pytest.raises(ConfigError, match="no day"):
        days(3, "2026-02-30")


def test_each_day_that_has_a_file_is_an_entry_of_its_own() -> None:
    found, missing = expand([TRAIN, GENERAL], WINDOW, lambda uri: "02-28" not in uri)
    assert [entry["path"] for entry in found] == ["s3://rows/2026/02/tickets-2026-02-27.jsonl", "s3://rows/2026/03/tickets-2026-03-01.jsonl", "general.jsonl"]  # fmt: skip
    assert [entry.get("name") for entry in found] == ["tickets-2026-02-27", "tickets-2026-03-01", None]
    assert {entry.get("weight") for entry in found[:2]} == {2.0}
    assert missing == ["s3://rows/2026/02/tickets-2026-02-28.jsonl"]
    named, _ = expand([{**TRAIN, "name": "mine"}], WINDOW[:1], lambda uri: True)
    assert named[0]["name"] == "mine-2026-02-27"


def test_a_window_without_a_day_in_an_address_and_the_reverse_are_refused() -> None:
    for entries, window in (([GENERAL], WINDOW), ([TRAIN], [])):
        with pytest.raises(ConfigError, match="do not fit together"):
            expand(entries, window, lambda uri: True)
    assert expand([GENERAL], [], lambda uri: False) == ([GENERAL], [])


def test_a_window_without_any_file_is_refused() -> None:
    with pytest.raises(DataRefused, match="no day of the window"):
        expand([TRAIN, GENERAL], WINDOW, lambda uri: False)
