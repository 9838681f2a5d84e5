"""Each check finds its fault, leaves good rows alone, and does what its setting says: reject, warn or off."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.retain.validate.conftest import Check, Out, chat, check_files, says, write

from retain.errors import ConfigError, DataRefused
from retain.validate.config import CHECKS, REASONS, UNREADABLE, DatasetSpec, ValidateConfig

LONG = "The parcel left our depot on monday and the driver will bring it to your door in the afternoon, " * 3
STORY = " ".join(f"n{i}" for i in range(90))
CALL = {"type": "function", "function": {"name": "track", "arguments": {"parcel": 7}}}
# After one good row, exactly one row has the fault, and only this one.
FAULTS: dict[str, list[dict[str, Any]]] = {
    "nan": [chat(2, score=float("nan"))],
    "unknown_role": [says(("wizard", "hi"), ("assistant", "hello wizard"))],
    "role_order": [says(("user", "hi one"), ("user", "are you there"), ("assistant", "hello"))],
    "no_answer": [says(("user", "hi two"))],
    "empty_answer": [says(("user", "hi three"), ("assistant", " \n"))],
    "empty_prompt": [says(("user", ""), ("assistant", "hello"))],
    "too_long": [says(("user", "hi four"), ("assistant", "parcel " * 600 + "."))],
    "duplicate": [chat(1, id="another")],
    "conflicting_answers": [says(("user", "Where is parcel 1?"), ("assistant", "Nobody knows."))],
    "encoding": [says(("user", "Was kostet das fÃ¼r uns, schÃ¶n?"), ("assistant", "Nichts."))],
    "control_characters": [says(("user", "a\x00b"), ("assistant", "hello"))],
    "pii": [says(("user", "mail me: jane.roe@parcels.co.uk"), ("assistant", "done"))],
    "secrets": [says(("user", "my key AKIAIOSFODNN7QRSTUVW"), ("assistant", "revoke it"))],
    "truncated_answer": [says(("user", "hi five"), ("assistant", LONG + "because the driver was"))],
    "refusal": [says(("user", "hi six"), ("assistant", "I'm sorry, but I can't help with that."))],
    "near_duplicate": [
        says(("user", STORY), ("assistant", "Thank you.")),
        says(("user", STORY + " indeed"), ("assistant", "Thank you.")),
    ],
}


NUMBERED = [(reason, row) for reason, rows in FAULTS.items() for row in rows]
LINES = "".join(json.dumps(row) + "\n" for row in [chat(1), *(row for _, row in NUMBERED)])


def test_each_fault_is_found_and_nothing_else(check: Check, out: Out) -> None:
    result = check(LINES, **dict.fromkeys(FAULTS, "reject"))
    expected = {number: [reason] for number, (reason, _) in enumerate(NUMBERED, start=2)}
    del expected[2 + [reason for reason, _ in NUMBERED].index("near_duplicate")]  # the first of two
    assert out.reasons() == expected
    assert result.reasons == dict.fromkeys(FAULTS, 1)
    assert result.rows == 2


def test_warn_keeps_the_row_and_counts_it(check: Check) -> None:
    result = check(LINES, **dict.fromkeys(FAULTS, "warn"))
    assert (result.rejected, result.warnings) == (0, dict.fromkeys(FAULTS, 1))


def test_off_does_not_look(check: Check) -> None:
    result = check(LINES, **dict.fromkeys(FAULTS, "off"))
    assert (result.rejected, result.warnings) == (0, {})


@pytest.mark.parametrize("reason", ["pii", "duplicate", "encoding"])
def test_one_check_is_set_without_the_others(check: Check, reason: str) -> None:
    result = check(LINES, **{**dict.fromkeys(FAULTS, "warn"), reason: "reject"})
    assert (result.reasons, reason in result.warnings) == ({reason: 1}, False)


def test_every_check_is_tested_and_every_reason_has_a_setting() -> None:
    assert {*FAULTS, "leakage", "unrenderable", "same_answers"} == set(CHECKS)
    assert len(REASONS) == len(UNREADABLE) + len(CHECKS) == 23
    assert all(ValidateConfig().act(reason) in ("reject", "warn", "off") for reason in REASONS)


GOOD: list[dict[str, Any]] = [
    says(("system", "be kind"), ("user", "hi"), ("assistant", "hello"), ("user", "again"), ("assistant", "hello again")),
    {"messages": [{"role": "user", "content": "track"}, {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "depot"}, {"role": "assistant", "content": "At the depot."}]},
    says(("user", "café, naïve, 東京, 🚚 – “quoted” text and a tab\there"), ("assistant", "Straße…")),
    says(("user", "line\r\nline"), ("assistant", "U+2028 \u2028 and form feed \x0c")),
    says(("user", "order 12345678, total 99.95 on 2024-01-31, see example@example.com"), ("assistant", "1.234.567,89 at 10:30 in 2023-2024")),
    says(("user", "my password is forgotten"), ("assistant", "Set api_key=YOUR_API_KEY and open https://user:password@host/")),
    says(("user", "short"), ("assistant", "no full stop here")),
]  # fmt: skip


def test_good_rows_pass(check: Check) -> None:
    result = check(GOOD)
    assert (result.rows, result.rejected, result.warnings) == (len(GOOD), 0, {})


@pytest.mark.parametrize(
    ("turns", "detail"),
    [
        ([("user", "a"), ("system", "b"), ("assistant", "c")], "turn 2: system follows user; assistant belongs there"),
        (
            [("assistant", "a"), ("user", "b"), ("assistant", "c")],
            "turn 1: assistant comes first; system or developer or user belongs there",
        ),
        ([("user", "a"), ("tool", "b"), ("assistant", "c")], "turn 2: tool follows user; assistant belongs there"),
        (
            [("user", "a"), ("assistant", "b"), ("tool", "b"), ("assistant", "c")],
            "turn 3: tool follows assistant; user belongs there",
        ),
    ],
)
def test_order_is_told_by_turn(check: Check, out: Out, turns: list[tuple[str, str]], detail: str) -> None:
    check([chat(1), says(*turns)])
    assert out.rejects()[0]["reasons"] == [f"role_order: {detail}"]


def test_a_preference_needs_two_answers(check: Check, out: Out) -> None:
    rows = [{"prompt": "Where?", "chosen": "Here.", "rejected": other} for other in ("There.", "Here.")]
    check(rows)
    assert out.reasons() == {2: ["same_answers"]}
    assert check(rows, same_answers="off").rejected == 0


def test_a_chat_without_a_turn_that_carries_loss(check: Check, out: Out) -> None:
    silent = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "train": False}]}
    check([chat(1), silent, {"input_ids": [1]}])
    assert out.reasons()[2] == ["no_answer"]


def test_shapes_other_than_chats_are_checked_too(check: Check, out: Out) -> None:
    check([{"prompt": "a", "completion": "b"}, {"prompt": "", "completion": "b"}, {"prompt": "c", "completion": " "}])
    assert out.reasons() == {2: ["empty_prompt"], 3: ["empty_answer"]}
    check([{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [1, 3], "labels": [-100, -100]}])
    assert out.reasons() == {2: ["no_answer"]}


def test_the_template_that_refuses(tiny_base: Path, tmp_path: Path, out: Out) -> None:
    strict = tmp_path / "strict"
    strict.mkdir()
    for file in tiny_base.iterdir():
        (strict / file.name).write_bytes(file.read_bytes())
    (strict / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn here') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    rows = write(
        tmp_path / "rows.jsonl", [chat(1), says(("system", "be kind"), ("user", "hi"), ("assistant", "hello"))]
    )
    check_files([{"path": str(rows)}], strict, out)
    assert out.reasons() == {2: ["unrenderable"]}
    assert "no system turn here" in out.rejects()[0]["reasons"][0]
    assert check_files([{"path": str(rows)}], strict, out, unrenderable="off").rejected == 0


@pytest.fixture
def leaking(tmp_path: Path) -> list[dict[str, Any]]:
    """The train file comes first, and holds a test row and a test prompt with another answer."""
    other = says(("user", "Where is parcel 8?"), ("assistant", "Lost."))
    train = write(tmp_path / "train.jsonl", [chat(1), chat(7), other, chat(2)])
    return [{"path": str(train)}, {"path": str(write(tmp_path / "test.jsonl", [chat(7), chat(8)])), "split": "test"}]


def test_train_rows_that_leak_are_rejected_from_train(tiny_base: Path, out: Out, leaking: list[dict[str, Any]]) -> None:
    result = check_files(leaking, tiny_base, out)
    assert result.counts == {"target/test": 2, "target/train": 2}
    assert [(r["file"][-11:], r["row"], r["reasons"]) for r in out.rejects()] == [
        ("train.jsonl", 2, ["leakage: its prompt is also in split test: test, row 1"]),
        ("train.jsonl", 3, ["leakage: its prompt is also in split test: test, row 2"]),
    ]
    assert check_files(leaking, tiny_base, out, leakage="off").rows == 6


def test_refusals_are_wanted_in_safety_rows(check: Check) -> None:
    rows = [chat(1), *FAULTS["refusal"]]
    assert check(rows, refusal="reject").rejected == 1
    assert check(rows, refusal="reject", spec={"part": "safety"}).rejected == 0


def test_finish_reason_tells_a_cut(check: Check) -> None:
    assert check([chat(1), chat(2, finish_reason="length")]).warnings == {"truncated_answer": 1}


def test_max_tokens_and_the_models_own_limit(check: Check, out: Out) -> None:
    rows = [chat(1), says(("user", "hi"), ("assistant", "parcel " * 100))]
    assert check(rows).rejected == 0
    assert check(rows, max_tokens=60).reasons == {"too_long": 1}
    assert "the limit is 60" in out.rejects()[0]["reasons"][0]


def test_raw_text_is_never_too_long(check: Check) -> None:
    assert check([{"text": "parcel " * 3000}]).rejected == 0


def test_carriage_returns_are_mended_and_counted(check: Check, out: Out) -> None:
    check([chat(1), says(("user", "a\r\nb"), ("assistant", "c\rd")), says(("user", "C:\\readme"), ("assistant", "e"))])
    assert [turn["content"] for turn in out.payloads()[1]["messages"]] == ["a\nb", "c\nd"]
    assert "CR LF became LF in 1 rows" in out.page()


def test_pii_kinds(check: Check) -> None:
    rows = [
        chat(1),
        says(("user", "card 4111 1111 1111 1111"), ("assistant", "ok")),
        says(("user", "call +44 20 7946 0958"), ("assistant", "ok")),
    ]
    assert check(rows).rejected == 2
    assert check(rows, pii_kinds="card").rejected == 1


def test_near_duplicate_similarity(check: Check) -> None:
    rows = FAULTS["near_duplicate"]
    assert check(rows, near_duplicate="reject", near_duplicate_similarity=0.8).rejected == 1
    assert check(rows, near_duplicate="reject", near_duplicate_similarity=1.0).rejected == 0


def test_max_share_of_one_reason(check: Check) -> None:
    rows = [*(chat(i) for i in range(20)), *FAULTS["pii"], *FAULTS["refusal"]]
    assert check(rows, max_share={"pii": 0.1}).rejected == 1
    with pytest.raises(DataRefused, match=r"pii: 1 of 22 rows \(4.5%\)"):
        check(rows, max_share={"pii": 0.01})
    with pytest.raises(DataRefused, match="refusal: 1 of 22 rows"):
        check(rows, max_share={"refusal": 0})


def test_max_rejected_share_holds_for_every_source(tiny_base: Path, tmp_path: Path, out: Out) -> None:
    small = write(tmp_path / "small.jsonl", [chat(1), *FAULTS["no_answer"]])
    large = write(tmp_path / "large.jsonl", [chat(i) for i in range(10, 200)])
    specs = [{"path": str(small)}, {"path": str(large), "part": "replay"}]
    assert check_files(specs, tiny_base, out, max_rejected_share=0.5).rejected == 1
    with pytest.raises(DataRefused, match=r"small \(target, train\): rejected rows: 1 of 2 rows \(50.0%\)"):
        check_files(specs, tiny_base, out, max_rejected_share=0.4)


def test_min_rows_counts_what_can_be_trained_on(check: Check) -> None:
    rows = [chat(i) for i in range(9)]
    assert check(rows, min_rows=9).rows == 9
    with pytest.raises(DataRefused, match="too few rows are left: 9 rows"):
        check(rows, min_rows=10)
    with pytest.raises(DataRefused, match="too few rows are left: 0 rows"):
        check(rows, min_rows=1, spec={"part": "replay"})


def test_few_test_rows_are_pointed_out(check: Check, out: Out) -> None:
    check([chat(i) for i in range(9)], spec={"split": "test"})
    assert "Only 9 target test rows" in out.page()
    check([chat(i) for i in range(9)], spec={"split": "test"}, min_test_rows=9)
    assert "target test rows" not in out.page()


def test_text_chars_reaches_the_reader(check: Check) -> None:
    text = "A line of the play.\n\n" * 100
    assert check(text, name="play.txt", duplicate="off", text_chars=500).rows > 3
    assert check(text, name="play.txt", text_chars=0).rows == 1


def test_a_reason_that_is_misspelled() -> None:
    from retain.config import parse

    with pytest.raises(ConfigError, match="did you mean 'duplicate'"):
        parse(ValidateConfig, {"max_share": {"duplicates": 0.1}})
    with pytest.raises(ConfigError, match="a share lies between 0 and 1"):
        parse(ValidateConfig, {"max_share": {"duplicate": 10}})


def test_every_setting_of_both_configs_is_flipped_somewhere_here() -> None:
    """The tests of this folder name every setting: one that nobody flips is one that nobody reads."""
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = {*FAULTS}
    missing = [
        name
        for config in (ValidateConfig, DatasetSpec)
        for name in config.model_fields
        if name not in named and f'"{name}"' not in text and f"{name}=" not in text
    ]
    assert missing == []
