"""Which shape the columns of a row are, and the one canonical payload of each shape.

| told from the columns               | format            | canonical shape and payload                                 |
|-------------------------------------|-------------------|-------------------------------------------------------------|
| input_ids, labels                   | tokenized         | tokenized {input_ids, labels}                               |
| chosen, rejected                    | preference        | preference {prompt, chosen, rejected}                       |
| messages and a true/false label     | kto               | kto {prompt, completion, label}                             |
| messages                            | messages          | messages {messages, (tools)}                                |
| conversations                       | sharegpt          | messages                                                    |
| instruction, output                 | alpaca            | messages                                                    |
| prompt, completion, label           | kto               | kto                                                         |
| prompt, completion                  | prompt_completion | prompt_completion {prompt, completion, (tools)}             |
| text, label                         | classification    | classification {text, label}; label as text                 |
| source or input, target             | seq2seq           | seq2seq {source, target}                                    |
| text or document                    | text              | text {text}                                                 |
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from retain.errors import DataRefused
from retain.validate import turns
from retain.validate.select import as_text
from retain.validate.turns import Unfit, plain

Row = Mapping[str, Any]
# format → the columns it is told from, in the order they are tried.
SIGNS: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("tokenized", (("input_ids", "labels"),)),
    ("preference", (("chosen", "rejected"),)),
    ("kto", (("messages", "label"), ("prompt", "completion", "label"))),
    ("messages", (("messages",),)),
    ("sharegpt", (("conversations",),)),
    ("alpaca", (("instruction", "output"),)),
    ("prompt_completion", (("prompt", "completion"),)),
    ("classification", (("text", "label"),)),
    ("seq2seq", (("source", "target"), ("input", "target"))),
    ("text", (("text",), ("document",))),
)
TRUE, FALSE = {"true", "1", "yes"}, {"false", "0", "-1", "no"}


def shape_of(row: Row) -> str:
    """The format that the columns of this row say, or an empty string."""
    return next((name for name, signs in SIGNS if any(_has(row, columns) for columns in signs)), "")


def _has(row: Row, columns: tuple[str, ...]) -> bool:
    if columns == ("messages", "label"):
        return "messages" in row and isinstance(row.get("label"), bool)
    return all(column in row for column in columns)


def detect(rows: Iterable[Row], *, where: str) -> str:
    """The format of most rows. Raises DataRefused where none is known."""
    rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
    found = Counter(shape for shape in map(shape_of, rows) if shape)
    if found:
        return found.most_common(1)[0][0]
    columns = ", ".join(dict.fromkeys(name for row in rows for name in row)) or "no columns"
    known = "; ".join(f"{name}: {' or '.join('+'.join(c) for c in signs)}" for name, signs in SIGNS)
    raise DataRefused(
        "the shape of these rows is not known", where=where, got=f"columns {columns}", expected=known,
        fix="name the columns with map, e.g. map: {prompt: 'Question: {question}', completion: '{answer}'}",
    )  # fmt: skip


def convert(row: Row, form: str) -> tuple[str, dict[str, Any]]:
    """(canonical shape, payload) of a row of format ``form``; raises Unfit with what is wrong."""
    signs = next(signs for name, signs in SIGNS if name == form)
    filled = {name: value for name, value in row.items() if value is not None}
    if any(all(column in filled for column in sign) for sign in signs):
        return CONVERT[form](filled)
    needed = f"{form} needs {' or '.join(' and '.join(sign) for sign in signs)}"
    if empty := next((column for sign in signs for column in sign if column in row and column not in filled), ""):
        raise Unfit(f"{empty} is null; {needed}")
    if (other := shape_of(filled)) and other != form:
        raise Unfit(f"this row is {other} (columns {_names(row)}), the file is {form}", "other_shape")
    raise Unfit(f"columns {_names(row)}; {needed}")


def _names(row: Row) -> str:
    return ", ".join(map(str, row)) or "none"


def _messages(row: Row) -> tuple[str, dict[str, Any]]:
    return _chat(turns.messages(row["messages"]), row)


def _sharegpt(row: Row) -> tuple[str, dict[str, Any]]:
    return _chat(turns.sharegpt(row["conversations"], row.get("system")), row)


def _chat(messages: list[dict[str, Any]], row: Row) -> tuple[str, dict[str, Any]]:
    tools = turns.tools(row.get("tools"))
    return "messages", {"messages": messages, **({"tools": tools} if tools else {})}


def _alpaca(row: Row) -> tuple[str, dict[str, Any]]:
    instruction, given = _text(row, "instruction"), row.get("input")
    messages = [{"role": "system", "content": plain(str(row["system"]))}] if row.get("system") else []
    for pair in row.get("history") or []:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(said, str) for said in pair)):
            raise Unfit("history is not a list of [instruction, answer] pairs")
        messages += _exchange(*pair)
    asked = f"{instruction}\n\n{plain(given)}" if isinstance(given, str) and given.strip() else instruction
    return "messages", {"messages": [*messages, *_exchange(asked, _text(row, "output"))]}


def _exchange(asked: str, answered: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": plain(asked)}, {"role": "assistant", "content": plain(answered)}]


def _prompt_completion(row: Row) -> tuple[str, dict[str, Any]]:
    tools = turns.tools(row.get("tools"))
    return "prompt_completion", {
        "prompt": _said(row, "prompt"),
        "completion": _said(row, "completion"),
        **({"tools": tools} if tools else {}),
    }


def _preference(row: Row) -> tuple[str, dict[str, Any]]:
    chosen, rejected = _said(row, "chosen"), _said(row, "rejected")
    if type(chosen) is not type(rejected):
        raise Unfit("chosen and rejected are of different kinds: two texts, or two lists of turns, are needed")
    if row.get("conversations") is not None:
        prompt: Any = turns.sharegpt(row["conversations"], row.get("system"))
    elif row.get("messages") is not None:
        prompt = turns.messages(row["messages"])
    elif row.get("prompt") is not None:
        prompt = _said(row, "prompt")
    else:
        prompt, chosen, rejected = _common_prompt(chosen, rejected)
    return "preference", {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _common_prompt(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Two whole conversations share their prompt: what stands before the first turn in which they differ."""
    if isinstance(chosen, list):
        same = next(
            (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
            min(len(chosen), len(rejected)),
        )
        cut = max((i for i in range(same + 1) if i < len(chosen) and chosen[i]["role"] == "assistant"), default=same)
    else:
        mark = "\n\nAssistant:"
        same = next(
            (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
            min(len(chosen), len(rejected)),
        )
        found = chosen.rfind(mark, 0, same)
        cut = found + len(mark) if found >= 0 else 0
    if not cut:
        raise Unfit("chosen and rejected have no common prompt, and there is no column prompt")
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _kto(row: Row) -> tuple[str, dict[str, Any]]:
    label = as_text(row["label"]).strip().lower()
    if label not in TRUE | FALSE:
        raise Unfit(f"label is {row['label']!r}, true or false is needed")
    if "messages" in row:
        chat = turns.messages(row["messages"])
        return "kto", {"prompt": chat[:-1], "completion": chat[-1:], "label": label in TRUE}
    return "kto", {"prompt": _said(row, "prompt"), "completion": _said(row, "completion"), "label": label in TRUE}


def _classification(row: Row) -> tuple[str, dict[str, Any]]:
    """Labels are names: 0, "0" and 0.0 are one class, and so are true and "true"."""
    label = row["label"]
    if label is None or isinstance(label, list | dict) or not as_text(label).strip():
        raise Unfit(f"label is {label!r}, one value is needed")
    text = as_text(label).strip()
    return "classification", {"text": _text(row, "text"), "label": text.lower() if text in {"True", "False"} else text}


def _seq2seq(row: Row) -> tuple[str, dict[str, Any]]:
    return "seq2seq", {"source": _text(row, "source" if "source" in row else "input"), "target": _text(row, "target")}


def _raw_text(row: Row) -> tuple[str, dict[str, Any]]:
    return "text", {"text": _text(row, "text" if "text" in row else "document")}


def _tokenized(row: Row) -> tuple[str, dict[str, Any]]:
    ids, labels = (_whole_numbers(row[name], name) for name in ("input_ids", "labels"))
    if len(ids) != len(labels):
        raise Unfit(f"{len(ids)} input_ids and {len(labels)} labels: one label a token is needed, -100 for none")
    if any(i < 0 for i in ids):
        raise Unfit("input_ids holds a negative number")
    return "tokenized", {"input_ids": ids, "labels": labels}


def _whole_numbers(value: Any, name: str) -> list[int]:
    found = turns.as_list(value, name)
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in found):
        raise Unfit(f"{name} is not a list of whole numbers")
    return found


def _text(row: Row, name: str) -> str:
    value = row[name]
    if isinstance(value, bool | int | float):
        return as_text(value)
    if not isinstance(value, str):
        raise Unfit(f"{name} is {'missing' if value is None else type(value).__name__}, text is needed")
    return plain(value)


def _said(row: Row, name: str) -> str | list[dict[str, Any]]:
    """Text, or a list of turns; one ShareGPT turn counts as a list of one."""
    value = row[name]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        return _text(row, name)
    if value and isinstance(value[0], Mapping) and "from" in value[0]:
        return turns.sharegpt(value)
    return turns.messages(value, name)


CONVERT: dict[str, Callable[[Row], tuple[str, dict[str, Any]]]] = {
    "messages": _messages, "sharegpt": _sharegpt, "alpaca": _alpaca, "prompt_completion": _prompt_completion, "text": _raw_text,
    "preference": _preference, "kto": _kto, "classification": _classification, "seq2seq": _seq2seq, "tokenized": _tokenized,
}  # fmt: skip
