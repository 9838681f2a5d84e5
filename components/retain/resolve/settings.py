"""Between a nested recipe and the run form's flat settings: dotted paths, scalars only, nothing lost.

``{"lora": {"r": 16}, "tasks": [{"name": "core"}]}``  ⇄  ``{"lora.r": 16, "tasks.0.name": "core"}``; a list of words is one
comma string (retain.config splits it again).
"""

from collections.abc import Mapping
from typing import Any

from retain.errors import ConfigError

Scalar = str | int | float | bool


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Dotted path → scalar, in the order of the recipe."""
    flat: dict[str, Scalar] = {}
    for key, value in nested.items():
        flat.update(_flat(f"{prefix}{key}", value))
    return flat


def _flat(path: str, value: Any) -> dict[str, Scalar]:
    if isinstance(value, Mapping):
        return flatten(value, f"{path}.")
    if isinstance(value, list | tuple):
        if any(isinstance(entry, Mapping | list | tuple) for entry in value):
            return flatten({str(i): entry for i, entry in enumerate(value)}, f"{path}.")
        return {path: ", ".join(str(entry) for entry in value)}
    return {path: value}


def nest(flat: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """The inverse of :func:`flatten`; keys that are 0, 1, 2 … become a list."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        put(tree, path, value, where=where)
    return {key: _lists(value) for key, value in tree.items()}


def put(tree: dict[str, Any], path: str, value: Any, *, where: str = "") -> None:
    """Set ``tree[a][b][c]`` for the path ``a.b.c``; lists on the way are addressed by number."""
    *parents, last = path.split(".")
    node: Any = tree
    for part in parents:
        node = _step_into(node, part, path, where)
    if isinstance(node, list):
        node[_index(node, last, path, where)] = value
    else:
        node[last] = value


def _step_into(node: Any, part: str, path: str, where: str) -> Any:
    below = node[_index(node, part, path, where)] if isinstance(node, list) else node.setdefault(part, {})
    if not isinstance(below, dict | list):
        raise ConfigError(
            f"{where}{path}: '{part}' is a value, not a group of settings",
            got=below,
            fix="leave out what stands behind it",
        )
    return below


def _index(node: list[Any], part: str, path: str, where: str) -> int:
    if not part.isdigit() or int(part) > len(node):
        raise ConfigError(f"{where}{path}: '{part}' is no place in a list of {len(node)}", expected=f"0 to {len(node)}")
    if int(part) == len(node):
        node.append({})
    return int(part)


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _lists(entry) for key, entry in value.items()}
    if inner and set(inner) == {str(i) for i in range(len(inner))}:
        return [inner[str(i)] for i in range(len(inner))]
    return inner


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``changes`` laid over ``base``, group by group; lists and scalars are replaced whole."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
