"""Which rows of a file count, and how their columns become others: where, rows, map, split_at."""

import itertools
import json
import math
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from retain.config import nearest
from retain.errors import ConfigError, DataRefused
from retain.validate.config import DatasetSpec
from retain.validate.read import Record

HEAD = 200  # records looked at to know the columns of a file
MISSING = object()


def select(spec: DatasetSpec, found: Iterable[Record], *, where: str) -> Iterator[Record]:
    """The records that ``spec`` asks for, with the columns it asks for. Unreadable records stay: they are rows too.

    Raises ConfigError where ``map`` or ``where`` name a column that the file does not have.
    """
    found = iter(found)
    head = list(itertools.islice(found, HEAD))
    columns = list(dict.fromkeys(name for record in head if record.value for name in record.value))
    values = [record.value for record in head if record.value]
    templates = {name: _parsed(template, name) for name, template in spec.map.items()}
    _check_columns(values, list(spec.where), columns, "where", where)
    _check_columns(values, [c for parts in templates.values() for _, c in parts if c], columns, "map", where)
    kept = (record for record in itertools.chain(head, found) if _wanted(record, spec.where))
    return (_changed(record, templates, spec.split_at) for record in _slice(kept, spec.rows))


def _slice(kept: Iterator[Record], rows: str) -> Iterator[Record]:
    start, _, stop = rows.partition(":")
    return itertools.islice(kept, int(start or 0), int(stop) if stop else None)


def _wanted(record: Record, where: Mapping[str, str]) -> bool:
    return record.value is None or all(as_text(look_up(record.value, c)) == wanted for c, wanted in where.items())


def _check_columns(
    values: list[dict[str, Any]], named: Iterable[str], columns: list[str], knob: str, where: str
) -> None:
    for column in named:
        if values and all(look_up(value, column) is MISSING for value in values):
            near = nearest(column, columns)
            raise ConfigError(
                f"{knob} names a column that this file does not have", where=where, got=column, expected=f"one of: {', '.join(columns)}",
                fix=f"did you mean '{near}'?" if near else "",
            )  # fmt: skip


def look_up(value: Mapping[str, Any], column: str) -> Any:
    """A column, or with dots what lies inside one (``inputs.text``); MISSING where there is none."""
    if column in value:
        return value[column]
    node: Any = value
    for part in column.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return MISSING
        node = node[part]
    return node


def as_text(value: Any) -> str:
    """A cell as text: ``true``, ``3`` (for 3.0 too), JSON for lists and objects, nothing for null."""
    if value is None or value is MISSING:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _parsed(template: str, name: str) -> list[tuple[str, str]]:
    """(text before, column) pairs of ``'Sentiment of: {sentence}'``."""
    try:
        parts = [
            (text, column, spec or conversion) for text, column, spec, conversion in string.Formatter().parse(template)
        ]
    except ValueError as error:
        raise ConfigError(
            f"map.{name}: this is no template",
            got=template,
            expected="text with {column}",
            fix=f"{error}; write a brace itself twice: {{{{ }}}}",
        ) from None
    if any(extra for _, _, extra in parts) or any(column == "" for _, column, _ in parts):
        raise ConfigError(f"map.{name}: only {{column}} is known here", got=template, expected="text with {column}")
    return [(text, column or "") for text, column, _ in parts]


def _changed(record: Record, templates: Mapping[str, list[tuple[str, str]]], split_at: str) -> Record:
    value = record.value
    if value is None:
        return record
    record = replace(record, nan=odd) if (odd := _not_finite(value)) else record
    if templates:
        missing = [c for parts in templates.values() for _, c in parts if c and look_up(value, c) in (MISSING, None)]
        if missing:
            return _unfit(record, f"no column '{missing[0]}', which map needs")
        value = {name: _filled(parts, value) for name, parts in templates.items()}
    if split_at:
        text = next((value[name] for name in ("text", "document") if isinstance(value.get(name), str)), None)
        if text is None or split_at not in text:
            return _unfit(record, f"split_at {split_at!r} does not occur in its text")
        cut = text.rindex(split_at) + len(split_at)
        value = {"prompt": text[:cut], "completion": text[cut:]}
    return record if value is record.value else replace(record, value=value, raw=record.text())


def _not_finite(value: Mapping[str, Any]) -> str:
    return next((name for name, cell in value.items() if isinstance(cell, float) and not math.isfinite(cell)), "")


def _filled(parts: list[tuple[str, str]], value: Mapping[str, Any]) -> Any:
    """A template of nothing but one column keeps its type; everything else is text."""
    if len(parts) == 1 and not parts[0][0]:
        return look_up(value, parts[0][1])
    return "".join(text + (as_text(look_up(value, column)) if column else "") for text, column in parts)


def _unfit(record: Record, detail: str) -> Record:
    return replace(record, value=None, raw=record.text(), reason="schema", detail=detail)


def nothing_selected(spec: DatasetSpec, where: str) -> DataRefused:
    """The error for a selection that keeps no row."""
    return DataRefused(
        "no row of this file is selected", where=where, got=f"where: {dict(spec.where)}, rows: '{spec.rows}'", fix="check the values of where (compared as text) and the slice",
    )  # fmt: skip
