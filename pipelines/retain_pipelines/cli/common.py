"""What the verbs share: their flags, and how a result is shown."""

import json as jsonlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from retain.errors import UsageError

Recipe = Annotated[str, typer.Argument(help="A shipped recipe by its name, or the path of one.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override one setting, e.g. train.learning_rate=5e-5 (again for more)."),
]
Out = Annotated[Path, typer.Option(help="Folder that takes what the step writes.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout; everything else goes to stderr.")
]


def emit(value: Any, as_json: bool, text: str = "") -> None:
    """The result: JSON for programs, text for people."""
    sys.stdout.write(
        (jsonlib.dumps(value, indent=1, ensure_ascii=False, default=str) if as_json else text or str(value)) + "\n"
    )


def quiet(json: bool, door: Any, *arguments: Any, **named: Any) -> Any:
    """Open a step's door; with --json its lines go to stderr and stdout is left to the result."""
    out = sys.stdout
    if json:
        sys.stdout = sys.stderr
    try:
        return door(*arguments, **named)
    finally:
        sys.stdout = out


def flags(overrides: list[str] | None, stage: str) -> dict[str, Any]:
    """``key=value`` flags as nested settings of one stage."""
    import yaml

    from retain.resolve import settings

    values: dict[str, Any] = {}
    for override in overrides or []:
        key, mark, text = override.partition("=")
        if not mark:
            raise UsageError("--set takes key=value", got=override)
        settings.put(values, key.removeprefix(stage), yaml.safe_load(text))
    return values


def for_ci(verdict: dict[str, Any], junit: str, comment: str, annotations: bool) -> None:
    """What a CI system shows of a verdict."""
    from retain.gate import ci

    if junit:
        Path(junit).write_text(ci.junit(verdict), encoding="utf-8")
    if comment:
        Path(comment).write_text(ci.comment(verdict), encoding="utf-8")
    if annotations:
        sys.stdout.write("".join(f"{line}\n" for line in ci.annotations(verdict)))
