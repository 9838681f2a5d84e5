"""Everything that goes wrong with data: each case with its clear message, and nothing lost."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.retain.validate.conftest import Check, Out, chat, check_files, says, write

from retain.errors import ConfigError, DataRefused, EnvironmentFault, ExitCode
from retain.validate.read import records


def lines(rows: list[Any]) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def test_every_row_is_in_exactly_one_of_the_two(check: Check, out: Out) -> None:
    rows = [chat(i) for i in range(20)]
    bad = [
        "{broken",
        "[1, 2]",
        chat(3),
        says(("user", "hi")),
        {"other": 1},
        says(("user", "mail bob@shop.com"), ("assistant", "done")),
    ]
    result = check(lines([*rows[:10], *bad, *rows[10:]]))
    assert result.rows == len(out.rows()) == 20
    assert result.rejected == len(out.rejects()) == 6
    kept, lost = {int(row["id"].rpartition(":")[2]) for row in out.rows()}, set(out.reasons())
    assert not kept & lost
    assert kept | lost == set(range(1, 27))


def test_empty_file(check: Check) -> None:
    with pytest.raises(DataRefused, match="this data file is empty"):
        check("")


def test_only_blank_lines(check: Check) -> None:
    with pytest.raises(DataRefused, match="empty"):
        check("\n \n\n")


def test_not_json_on_line_7(check: Check, out: Out) -> None:
    rows: list[Any] = [chat(i) for i in range(6)]
    result = check(lines([*rows, '{"messages": [', *[chat(i) for i in range(10, 14)]]))
    (reject,) = out.rejects()
    assert (reject["row"], reject["raw"], result.rows) == (7, '{"messages": [', 10)
    assert reject["reasons"][0].startswith("not_json: not JSON: Expecting value")
    assert reject["file"].endswith("rows.jsonl")


def test_mixed_shapes(check: Check, out: Out) -> None:
    result = check([chat(1), chat(2), {"instruction": "Say hello to me", "output": "Hello!"}, chat(3)])
    assert out.reasons() == {3: ["other_shape"]}
    assert "this row is alpaca (columns instruction, output), the file is messages" in out.rejects()[0]["reasons"][0]
    assert set(result.detected.values()) == {"messages"}


def test_unknown_role(check: Check, out: Out) -> None:
    check([chat(1), says(("user", "hi"), ("wizard", "abracadabra"))])
    assert out.rejects()[0]["reasons"] == [
        "unknown_role: turn 2 is by 'wizard'; known: system, developer, user, assistant, tool"
    ]


def test_assistant_turn_missing(check: Check, out: Out) -> None:
    check([chat(1), says(("system", "be kind"), ("user", "is anybody there?"))])
    assert out.rejects()[0]["reasons"] == ["no_answer: the last turn is the user's: the assistant's answer is missing"]


def test_a_row_of_100_000_tokens(check: Check, out: Out) -> None:
    result = check([chat(1), says(("user", "count"), ("assistant", "parcel " * 100_000))])
    assert result.reasons == {"too_long": 1}
    assert "the limit is 512" in out.rejects()[0]["reasons"][0]
    assert len(out.rejects()[0]["raw"]) > 700_000


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_nan_in_a_numeric_column(check: Check, out: Out, bad: str) -> None:
    check(lines([chat(1), json.dumps(chat(2))[:-1] + f', "score": {bad}}}', chat(3)]))
    assert out.rejects()[0]["reasons"] == ["nan: column score holds NaN or infinity"]
    assert bad in out.rejects()[0]["raw"]


def test_nan_inside_the_payload_cannot_be_kept(check: Check, out: Out) -> None:
    turns = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": NaN}]}'
    result = check(lines([chat(1), turns]), nan="off")
    assert (result.rows, list(result.reasons)) == (1, ["schema"])


def test_line_separators_inside_a_value(check: Check, out: Out) -> None:
    words = "one\u2028two\u2029three\x85four"
    check([chat(1), says(("user", words), ("assistant", words + "."))])
    assert [turn["content"] for turn in out.payloads()[1]["messages"]] == [words, words + "."]
    assert out.rejects() == []


def test_all_duplicates(check: Check, out: Out) -> None:
    with pytest.raises(DataRefused, match="99 of 100 rows") as error:
        check([chat(1, id=i) for i in range(100)], max_rejected_share=0.1)
    assert "duplicate 99" in str(error.value)
    assert error.value.exit_code == ExitCode.DATA_REFUSED
    assert len(out.rejects()) == 99
    assert out.rejects()[0]["reasons"] == ["duplicate: same as rows, row 1"]
    assert "Rows refused" in out.page()


def test_three_rows_only(check: Check) -> None:
    with pytest.raises(DataRefused, match=r"too few rows are left: 3 rows") as error:
        check([chat(i) for i in range(3)], min_rows=8)
    assert "at least 8 (min_rows)" in str(error.value)


def test_a_refused_dataset_is_not_left_behind(check: Check, out: Out) -> None:
    check([chat(i) for i in range(9)])
    assert out.rows()
    with pytest.raises(DataRefused):
        check([chat(1)] * 9, max_rejected_share=0.1)
    assert not (out.folder / "dataset" / "info.json").exists()


def test_a_file_that_does_not_exist(tiny_base: Path, out: Out, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such data file") as error:
        check_files([{"path": str(tmp_path / "nowhere.jsonl")}], tiny_base, out)
    assert error.value.exit_code == ExitCode.USAGE


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="needs a place that takes no file")
def test_an_output_that_cannot_be_written(tiny_base: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file stands where the folder should be")
    with pytest.raises(EnvironmentFault, match="this folder cannot be written"):
        check_files([{"path": str(write(tmp_path / "rows.jsonl", [chat(1)]))}], tiny_base, Out(tmp_path / "taken"))


def test_a_wrong_column_in_map(check: Check) -> None:
    with pytest.raises(ConfigError, match="map names a column that this file does not have") as error:
        check(
            [{"sentence": "fine", "label": "good"}],
            spec={"map": {"prompt": "Sentiment of: {sentense}", "completion": "{label}"}},
        )
    assert "did you mean 'sentence'?" in str(error.value)


def test_columns_that_nobody_knows(check: Check) -> None:
    with pytest.raises(DataRefused, match="the shape of these rows is not known") as error:
        check([{"frage": "wo?", "antwort": "da"}])
    assert "columns frage, antwort" in str(error.value)
    assert "map" in error.value.fix


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_an_archive_that_is_cut_short_or_damaged(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    whole = pack(lines([chat(i) for i in range(500)]).encode())
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[:middle] + b"\x00\xff\x13\x77" + whole[middle + 4 :]):
        with pytest.raises(DataRefused, match="cannot be read to its end"):
            list(records(write(tmp_path / "rows.jsonl", damaged)))


def test_bytes_that_are_not_utf8(check: Check, out: Out) -> None:
    bad = b'{"messages": [{"role": "user", "content": "caf\xe9"}, {"role": "assistant", "content": "yes"}]}\n'
    check(lines([chat(1)]).encode() + bad)
    assert out.reasons() == {2: ["not_utf8"]}
    assert r"caf\xe9" in out.rejects()[0]["raw"]


def test_half_a_character(check: Check, out: Out) -> None:
    check(
        lines(
            [chat(1), r'{"messages": [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "yes"}]}']
        )
    )
    assert out.reasons() == {2: ["not_utf8"]}
    assert r"\ud83d" in out.rejects()[0]["raw"]


def test_utf16_says_what_to_do(check: Check) -> None:
    with pytest.raises(DataRefused, match="UTF-16"):
        check(lines([chat(1)]).encode("utf-16"))


def test_many_broken_lines_before_the_first_good_one(check: Check, out: Out) -> None:
    result = check("{broken\n" * 300 + lines([chat(1), chat(2)]))
    assert (result.rows, result.rejected, list(result.detected.values())) == (2, 300, ["messages"])


def test_nothing_but_broken_lines(check: Check, out: Out) -> None:
    with pytest.raises(DataRefused, match="not_json 3"):
        check("{broken\n" * 3, max_rejected_share=0.5)
    assert [row["raw"] for row in out.rejects()] == ["{broken"] * 3
