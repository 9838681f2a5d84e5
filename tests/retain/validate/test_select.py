"""where, rows, map, split_at, validation_share: which rows, and as what."""

from pathlib import Path

import pytest
from tests.retain.validate.conftest import Check, Out, chat, check_files, write

from retain.errors import ConfigError, DataRefused

ROWS = [
    {
        "sentence": f"Profit rose by {i}.",
        "label": i % 3,
        "split": "a" if i % 2 else "b",
        "inputs": {"text": f"deep {i}"},
    }
    for i in range(10)
]


def test_map_makes_prompt_and_completion(check: Check, out: Out) -> None:
    check(ROWS, spec={"map": {"prompt": "Sentiment of: {sentence}", "completion": "{label}"}})
    assert out.payloads()[1] == {"prompt": "Sentiment of: Profit rose by 1.", "completion": "1"}


def test_map_reaches_inside_and_keeps_types(check: Check, out: Out) -> None:
    check(ROWS, spec={"map": {"text": "{inputs.text} {{raw}}", "label": "{label}"}})
    assert out.payloads()[2] == {"text": "deep 2 {raw}", "label": "2"}


def test_map_of_a_row_without_the_column(check: Check, out: Out) -> None:
    check([*ROWS, {"sentence": "no label"}], spec={"map": {"prompt": "{sentence}", "completion": "{label}"}})
    assert out.rejects()[0]["reasons"] == ["schema: no column 'label', which map needs"]
    assert out.rejects()[0]["raw"] == '{"sentence": "no label"}'


@pytest.mark.parametrize("template", ["{", "{a!r}", "{}"])
def test_a_template_that_is_none(check: Check, template: str) -> None:
    with pytest.raises(ConfigError, match=r"map\.prompt"):
        check(ROWS, spec={"map": {"prompt": template, "completion": "{label}"}})


def test_split_at_cuts_behind_the_mark(check: Check, out: Out) -> None:
    rows = [{"text": f"table: t\nQ: how many {i}?\nA: SELECT {i}"} for i in range(3)] + [{"text": "no mark"}]
    check(rows, spec={"split_at": "\nA: "})
    assert out.payloads()[0] == {"prompt": "table: t\nQ: how many 0?\nA: ", "completion": "SELECT 0"}
    assert "split_at '\\nA: ' does not occur" in out.rejects()[0]["reasons"][0]


def test_where_then_rows(check: Check, out: Out) -> None:
    spec = {"map": {"text": "{sentence}"}, "where": {"split": "a"}}
    check(ROWS, spec=spec)
    assert len(out.rows()) == 5
    check(ROWS, spec={**spec, "rows": "1:3"})
    assert [row["id"] for row in out.rows()] == ["rows:4", "rows:6"]
    check(ROWS, spec={**spec, "where": {"label": "0"}})
    assert len(out.rows()) == 4


def test_where_names_a_column_that_is_not_there(check: Check) -> None:
    with pytest.raises(ConfigError, match="where names a column") as error:
        check(ROWS, spec={"where": {"splt": "a"}})
    assert "did you mean 'split'?" in str(error.value)


def test_where_that_keeps_nothing(check: Check) -> None:
    with pytest.raises(DataRefused, match="no row of this file is selected"):
        check(ROWS, spec={"where": {"split": "c"}})


def test_validation_share_is_chosen_by_the_row_itself(check: Check, out: Out) -> None:
    rows = [chat(i) for i in range(300)]
    result = check(rows, spec={"validation_share": 0.2})
    aside = {row["payload"] for row in out.rows() if row["split"] == "validation"}
    assert 35 < len(aside) < 85
    assert result.counts == {"target/train": 300 - len(aside), "target/validation": len(aside)}
    check(rows[::-1], spec={"validation_share": 0.2})
    assert {row["payload"] for row in out.rows() if row["split"] == "validation"} == aside


def test_names_parts_splits_and_weights_reach_the_rows(tiny_base: Path, tmp_path: Path, out: Out) -> None:
    (tmp_path / "a").mkdir()
    one, two = write(tmp_path / "train.jsonl", [chat(1)]), write(tmp_path / "a" / "train.jsonl", [chat(2)])
    specs = [
        {"path": str(one)},
        {"path": str(two), "part": "replay", "weight": 2.5},
        {"path": str(write(tmp_path / "test.jsonl", [chat(3)])), "split": "test", "name": "held out"},
    ]
    result = check_files(specs, tiny_base, out)
    assert {(r["id"], r["source"], r["part"], r["split"], r["weight"]) for r in out.rows()} == {
        ("train:1", "train", "target", "train", 1.0),
        ("train#2:1", "train#2", "replay", "train", 2.5),
        ("held out:1", "held out", "target", "test", 1.0),
    }
    assert result.detected == {
        "train (target, train)": "messages",
        "train#2 (replay, train)": "messages",
        "held out (target, test)": "messages",
    }


def test_the_same_rows_have_the_same_digest(check: Check) -> None:
    rows = [chat(i) for i in range(5)]
    assert check(rows).digest == check(rows).digest != check(rows[1:]).digest
