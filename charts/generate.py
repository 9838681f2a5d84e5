"""values.yaml and the values table of the chart's README, written from values.schema.json: one source, no drift.

``python charts/generate.py`` writes both; a test fails where they differ from what stands in the repository.
"""

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHART = Path(__file__).parent / "retain"
BEGIN, END = "<!-- values: written by charts/generate.py -->", "<!-- end of values -->"
HEAD = "# Written by charts/generate.py from values.schema.json: change the schema. Unknown keys are refused.\n"
NO_VALUES = {"global"}  # Helm's own key has no default of ours


def schema() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return read


def resolved(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A node with its ``$ref`` put in; what stands beside the reference wins."""
    if "$ref" not in node:
        return node
    target = resolved(definitions[node["$ref"].removeprefix("#/$defs/")], definitions)
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def children(node: dict[str, Any]) -> dict[str, Any]:
    """The keys that are described one by one; an object with a default of its own is shown as one value."""
    return {} if "default" in node else node.get("properties", {})


def keys(
    node: dict[str, Any], definitions: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """(path, node) of every described key, parents before their children."""
    for name, child in children(node).items():
        found = resolved(child, definitions)
        if (*path, name)[0] not in NO_VALUES:
            yield (*path, name), found
            yield from keys(found, definitions, (*path, name))


def values_yaml(whole: dict[str, Any]) -> str:
    lines = [HEAD]
    for path, node in keys(whole, whole["$defs"]):
        pad = "  " * (len(path) - 1)
        lines += [""] if len(path) == 1 else []
        lines += textwrap.wrap(node["description"], 116, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# ")
        value = "" if children(node) else " " + json.dumps(node["default"], ensure_ascii=False)
        lines.append(f"{pad}{path[-1]}:{value}")
    return "\n".join(lines) + "\n"


def table(whole: dict[str, Any]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for path, node in keys(whole, whole["$defs"]):
        default = "" if children(node) else f"`{json.dumps(node['default'], ensure_ascii=False)}`"
        rows.append(f"| `{'.'.join(path)}` | {_kind(node)} | {default} | {_cell(node['description'])} |")
    return "\n".join(rows)


def _kind(node: dict[str, Any]) -> str:
    return " or ".join(f"`{choice}`" for choice in node["enum"]) if "enum" in node else str(node["type"])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def readme(whole: dict[str, Any], text: str) -> str:
    """The README with its values table written anew."""
    pattern = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    return pattern.sub(lambda _: f"{BEGIN}\n{table(whole)}\n{END}", text)


def main() -> None:
    whole = schema()
    (CHART / "values.yaml").write_text(values_yaml(whole), encoding="utf-8")
    page = CHART / "README.md"
    page.write_text(readme(whole, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
