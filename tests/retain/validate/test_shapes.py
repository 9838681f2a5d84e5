"""Ten formats told from their columns, each with its canonical payload."""

import json
from typing import Any

import pytest
from tests.retain.validate.conftest import Check, Out

from retain.validate.shapes import convert, detect
from retain.validate.turns import Unfit

CALL = {"type": "function", "function": {"name": "track", "arguments": {"parcel": 7}}}
TOOL = {"name": "track", "parameters": {"type": "object"}}
ASK, ANSWER = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}

CASES: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("messages", {"messages": [{**ASK, "id": 3}, {**ANSWER, "train": False, "weight": 0.5}]}, "messages", {"messages": [ASK, {**ANSWER, "train": False, "weight": 0.5}]}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": "Where?"}]}, ANSWER], "tools": [TOOL]}, "messages", {"messages": [ASK, ANSWER], "tools": [{"type": "function", "function": TOOL}]}),
    ("messages", {"messages": json.dumps([ASK, ANSWER])}, "messages", {"messages": [ASK, ANSWER]}),
    (
        "sharegpt",
        {
            "system": "Be kind.",
            "conversations": [
                {"from": "human", "value": "Where?"},
                {"from": "function_call", "value": '{"name": "track", "arguments": {"parcel": 7}}'},
                {"from": "observation", "value": "depot"},
                {"from": "gpt", "value": "Here."},
            ],
            "tools": json.dumps([TOOL]),
        },
        "messages",
        {
            "messages": [{"role": "system", "content": "Be kind."}, ASK, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "depot"}, ANSWER],
            "tools": [{"type": "function", "function": TOOL}],
        },
    ),
    ("alpaca", {"instruction": "Where?", "input": "", "output": "Here."}, "messages", {"messages": [ASK, ANSWER]}),
    (
        "alpaca",
        {"instruction": "Translate", "input": "Hund", "output": "dog", "system": "Be kind.", "history": [["Where?", "Here."]]},
        "messages",
        {"messages": [{"role": "system", "content": "Be kind."}, ASK, ANSWER, {"role": "user", "content": "Translate\n\nHund"}, {"role": "assistant", "content": "dog"}]},
    ),
    ("prompt_completion", {"prompt": "Where?", "completion": "Here."}, "prompt_completion", {"prompt": "Where?", "completion": "Here."}),
    ("prompt_completion", {"prompt": [ASK], "completion": [ANSWER]}, "prompt_completion", {"prompt": [ASK], "completion": [ANSWER]}),
    ("text", {"text": "Long ago\r\nand far away", "meta": 1}, "text", {"text": "Long ago\nand far away"}),
    ("text", {"document": "Long ago"}, "text", {"text": "Long ago"}),
    ("preference", {"prompt": "Where?", "chosen": "Here.", "rejected": "No."}, "preference", {"prompt": "Where?", "chosen": "Here.", "rejected": "No."}),
    (
        "preference",
        {"conversations": [{"from": "human", "value": "Where?"}], "chosen": {"from": "gpt", "value": "Here."}, "rejected": {"from": "gpt", "value": "No."}},
        "preference",
        {"prompt": [ASK], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "No."}]},
    ),
    ("preference", {"chosen": [ASK, ANSWER], "rejected": [ASK, {**ANSWER, "content": "Hello."}]}, "preference", {"prompt": [ASK], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "Hello."}]}),
    (
        "preference",
        {"chosen": "\n\nHuman: Where?\n\nAssistant: Here.", "rejected": "\n\nHuman: Where?\n\nAssistant: Hello."},
        "preference",
        {"prompt": "\n\nHuman: Where?\n\nAssistant:", "chosen": " Here.", "rejected": " Hello."},
    ),
    ("kto", {"prompt": "Where?", "completion": "Here.", "label": "1"}, "kto", {"prompt": "Where?", "completion": "Here.", "label": True}),
    ("kto", {"messages": [ASK, ANSWER], "label": False}, "kto", {"prompt": [ASK], "completion": [ANSWER], "label": False}),
    ("seq2seq", {"source": "Hund", "target": "dog"}, "seq2seq", {"source": "Hund", "target": "dog"}),
    ("seq2seq", {"input": "Hund", "target": "dog"}, "seq2seq", {"source": "Hund", "target": "dog"}),
    ("tokenized", {"input_ids": [1, 2], "labels": [-100, 2], "attention_mask": [1, 1]}, "tokenized", {"input_ids": [1, 2], "labels": [-100, 2]}),
    *[("classification", {"text": "fine", "label": label}, "classification", {"text": "fine", "label": name})
      for label, name in [(0, "0"), (2, "2"), ("1", "1"), (1.0, "1"), (True, "true"), ("False", "false"), ("B", "B"), (" positive ", "positive")]],
]  # fmt: skip


@pytest.mark.parametrize(("form", "row", "shape", "payload"), CASES)
def test_told_and_converted(form: str, row: dict[str, Any], shape: str, payload: dict[str, Any]) -> None:
    assert detect([row], where="rows") == form
    assert convert(row, form) == (shape, payload)


UNFIT: list[tuple[str, dict[str, Any], str]] = [
    ("messages", {"messages": []}, "messages is empty"),
    ("messages", {"messages": "hello"}, "text that is not a JSON list"),
    ("messages", {"messages": ["hello"]}, "turn 1 is text, an object with role and content is needed"),
    ("messages", {"messages": [{"content": "hello"}]}, "turn 1 has no role"),
    ("messages", {"messages": [ASK, {"role": "assistant"}]}, "the content of turn 2 is missing"),
    (
        "messages",
        {"messages": [ASK, {"role": "assistant", "content": [{"type": "image"}]}]},
        "the content of turn 2 is a list",
    ),
    ("messages", {"messages": [ASK, {**ANSWER, "weight": -1}]}, "weight of turn 2 is -1"),
    ("messages", {"messages": [ASK, {**ANSWER, "train": "yes"}]}, "train of turn 2 is 'yes'"),
    ("messages", {"messages": None}, "messages is null"),
    (
        "sharegpt",
        {"conversations": [{"from": "function_call", "value": "track()"}]},
        "the function call of turn 1 is not JSON",
    ),
    ("alpaca", {"instruction": "Where?", "output": None}, "output is null; alpaca needs instruction and output"),
    ("preference", {"chosen": "a", "rejected": "b"}, "no common prompt"),
    ("preference", {"prompt": "x", "chosen": "a", "rejected": [ANSWER]}, "of different kinds"),
    ("kto", {"prompt": "a", "completion": "b", "label": "maybe"}, "label is 'maybe', true or false is needed"),
    ("classification", {"text": "fine", "label": ["a"]}, "one value is needed"),
    ("tokenized", {"input_ids": [1, 2], "labels": [1]}, "2 input_ids and 1 labels"),
    ("tokenized", {"input_ids": [1.5], "labels": [1]}, "not a list of whole numbers"),
    ("text", {"text": ["a"]}, "text is list, text is needed"),
]


@pytest.mark.parametrize(("form", "row", "message"), UNFIT)
def test_what_does_not_fit_is_told(form: str, row: dict[str, Any], message: str) -> None:
    with pytest.raises(Unfit, match=message):
        convert(row, form)


def test_the_shape_of_most_rows_wins() -> None:
    alpaca, text = {"instruction": "a", "output": "b"}, {"text": "c"}
    assert detect([text, alpaca, alpaca], where="rows") == "alpaca"


def test_a_stated_format_overrides_the_columns(check: Check, out: Out) -> None:
    rows = [{"text": f"row {i}", "label": "a"} for i in range(3)]
    assert list(check(rows).detected.values()) == ["classification"]
    assert list(check(rows, spec={"format": "text"}).detected.values()) == ["text"]
    assert out.payloads()[0] == {"text": "row 0"}
    assert "text (as set)" in out.page()
