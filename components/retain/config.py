"""The base of every step's settings, and the one way to turn user input into them."""

import difflib
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from retain.errors import ConfigError

# What pydantic puts into the path of a fault for each arm of a union.
_CHOICE = re.compile(r"(constrained-\w+|literal\[.*\]|(list|dict)\[.*\]|int|float|str|bool)$")

C = TypeVar("C", bound="StepConfig")


class StepConfig(BaseModel):
    """Frozen settings of one step: unknown keys are refused, every field has a unit and a meaning.

    Whole numbers may arrive as floats (kfp's local runner turns every integer inside a dict into one), so the lax mode
    of pydantic is kept: 3.0 is 3, and 3.5 for a whole number is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_from_text(cls, values: Any) -> Any:
        """A run form has no lists: ``"q_proj, v_proj"`` is ``["q_proj", "v_proj"]``, an empty text the empty list."""
        if not isinstance(values, Mapping):
            return values
        return {k: _split(v) if isinstance(v, str) and _is_list(cls, k) else v for k, v in values.items()}

    def as_parameter(self) -> dict[str, Any]:
        """The JSON dict a pipeline step takes: complete, without a single null."""
        return self.model_dump(mode="json", exclude_none=True)


def parse(kind: type[C], values: Mapping[str, Any], *, where: str = "") -> C:
    """``values`` as ``kind``; every fault becomes one ConfigError that names the full path and the nearest known key."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise _explained(kind, error, where) from None


def _is_list(kind: type[BaseModel], name: str) -> bool:
    field = kind.model_fields.get(name)
    return field is not None and get_origin(field.annotation) in {list, tuple}


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _explained(kind: type[BaseModel], error: ValidationError, where: str) -> ConfigError:
    lines = list(dict.fromkeys(_line(kind, fault, where) for fault in _one_of_a_choice(error.errors())))
    return ConfigError(
        lines[0] if len(lines) == 1 else "several settings are wrong:\n" + "\n".join(f"  - {line}" for line in lines)
    )


def _one_of_a_choice(faults: list[Any]) -> list[Any]:
    """Of a setting that may be a number or a word, the fault of what it nearly is; pydantic tells both, under names of its own."""
    kept: dict[Any, Any] = {}
    for fault in faults:
        plain = tuple(part for part in fault["loc"] if not _CHOICE.match(str(part)))
        if plain not in kept or kept[plain]["type"] == "literal_error":
            other = kept.get(plain)
            kept[plain] = {**fault, "loc": plain} | (
                {"msg": f"{fault['msg']}, or {other['ctx']['expected']}"} if other else {}
            )
        elif fault["type"] == "literal_error":
            kept[plain] = {**kept[plain], "msg": f"{kept[plain]['msg']}, or {fault['ctx']['expected']}"}
    return list(kept.values())


def _line(kind: type[BaseModel], fault: Any, where: str) -> str:
    path = ".".join(str(part) for part in ([where] if where else []) + list(fault["loc"]))
    if fault["type"] == "extra_forbidden":
        near = nearest(str(fault["loc"][-1]), _keys_at(kind, fault["loc"][:-1]))
        return f"{path}: no such setting" + (f"; did you mean '{near}'?" if near else "")
    said = fault["msg"].removeprefix("Value error, ")  # pydantic's word before a reason of ours
    got = fault["input"]
    whole = fault["type"] in ("value_error", "missing") and isinstance(got, Mapping)
    return f"{path}: {said}" + ("" if whole else f" (got {got!r})")


def nearest(word: str, known: list[str]) -> str:
    """The known word that is meant by a misspelled one, or an empty string."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), "")


def _keys_at(kind: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    for part in path:
        field = kind.model_fields.get(str(part)) if isinstance(part, str) else None
        if field is None:
            continue
        inner = _model_in(field.annotation)
        if inner is not None:
            kind = inner
    return list(kind.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_model_in, getattr(annotation, "__args__", ())) if m), None)
