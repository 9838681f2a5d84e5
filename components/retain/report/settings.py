"""The settings in force, complete; what differs from the defaults first."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from retain.page import Html, details, esc, table
from retain.report.material import Material
from retain.report.words import clip, plural, soft
from retain.uris import without_secrets

CSS = """\n.any{overflow-wrap:anywhere}\n"""
LONGEST = 300
REQUIRED = object()  # has no default


def settings(material: Material) -> str:
    """Section: the resolved recipe against the defaults of its stages."""
    recipe = material.recipe.get("recipe")
    if not recipe:
        return ""
    from retain.resolve.recipe import Recipe

    known = dict(defaults(Recipe))
    rows = [(path, value, known.get(re.sub(r"\[\d+\]", "[]", path), REQUIRED)) for path, value in flat(recipe)]
    changed = [(_path(path), shown(value), shown(default)) for path, value, default in rows if value != default]
    whole = [(_path(path, bold=value != default), shown(value)) for path, value, default in rows]
    note = f"{plural(len(changed), 'setting')} of {len(rows)} differ from the defaults, or have none."
    return (
        f'<h2>Settings in force</h2><p class="soft">{note}</p>{table(["setting", "value", "default"], changed)}'
        + details("All settings", table(["setting", "value"], whole))
    )


def _path(path: str, *, bold: bool = False) -> Html:
    """A dotted path that may break before its dots."""
    text = esc(path).replace(".", "<wbr>.")
    return Html(f"<b>{text}</b>" if bold else text)


def defaults(kind: type[BaseModel], before: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, default) of every setting; of a list of settings, those of its entries as ``name[].key``."""
    for name, field in kind.model_fields.items():
        inner = next((k for k in (field.annotation, *get_args(field.annotation)) if _is_model(k)), None)
        if inner is not None:
            mark = "" if inner is field.annotation else "[]"
            yield from defaults(inner, f"{before}{name}{mark}.")
        if inner is not field.annotation and not field.is_required():
            yield f"{before}{name}", field.get_default(call_default_factory=True)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted path, value); other lists and what is empty are values."""
    for name, value in values.items():
        path = f"{before}{name}"
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{path}.")
        elif isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            for number, entry in enumerate(value):
                yield from flat(entry, f"{path}[{number}].")
        else:
            yield path, value


def shown(value: Any) -> Html:
    """A value as a person writes it in a recipe; addresses without their secrets."""
    if value is REQUIRED:
        return soft("required")
    if value == "":
        return soft("empty")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    clean = re.sub(r"[a-z][a-z0-9+.-]*://[^\s\"',]+", lambda m: without_secrets(m[0]), text)
    return Html(f'<span class="any">{esc(clip(clean, LONGEST))}</span>')
