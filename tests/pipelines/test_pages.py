"""Every command that a page tells a person to type is one that the command line, or the Makefile, takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from retain_pipelines.cli.app import FAMILIES, app

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "images/README.md", "charts/retain/README.md", "pipelines/README.md", "pipelines/EVIDENCE.md"]
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
USAGE = typer.BadParameter.__mro__[1]  # what the command line itself turns into exit code 2
COMMAND = re.compile(r"^(?:[\w./]+/)?retain ([a-z].*)")


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fenced(page: str) -> list[str]:
    """The lines of the page's blocks of commands."""
    return [line for block in FENCE.findall(text_of(page)) for line in block.splitlines()]


def spans(page: str) -> list[str]:
    """What stands between backquotes in the text, line breaks made spaces."""
    return [" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", text_of(page)))]


def verb(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the other words."""
    found: Any = typer.main.get_command(app)
    while words and words[0] in getattr(found, "commands", {}):
        found, words = found.commands[words[0]], words[1:]
    return found, words


def check_whole(line: str) -> None:
    """The line as it stands: verb, options, their types, what is required."""
    found, rest = verb(shlex.split(line, comments=True))
    assert not hasattr(found, "commands"), line
    found.make_context(found.name, rest)


def check_named(span: str) -> None:
    """What a sentence mentions: its verb (`compile|upload --profile` names two) and its options."""
    named = set(re.findall(r" (--[a-z-]+)", span))
    for each in span.partition(" --")[0].split("|"):
        found, _ = verb(each.split())
        assert found.name != "retain", f"no such verb: {span}"
        assert named <= {option for parameter in found.params for option in parameter.opts}, span


@pytest.mark.parametrize("page", PAGES)
def test_a_command_of_a_page_is_one_that_is_taken(page: str) -> None:
    for line in fenced(page):
        if found := COMMAND.match(line):
            check_whole(found[1].split(" > ")[0])
    for span in spans(page):
        if found := COMMAND.match(span):
            check_named(found[1])


def test_the_pages_have_commands_and_a_wrong_one_is_found() -> None:
    assert sum(bool(COMMAND.match(line)) for page in PAGES for line in fenced(page)) >= 9
    assert sum(bool(COMMAND.match(span)) for page in PAGES for span in spans(page)) >= 25
    for wrong in ("schedule create my.yaml --host http://x --crom '0 3 * * *'", "submit --wait", "schedule", "plan quickstart --last"):  # fmt: skip
        with pytest.raises((AssertionError, USAGE)):
            check_whole(wrong)
    for wrong in ("nosuchverb RECIPE", "submit --frehs", "compile|uplod --profile NAME"):
        with pytest.raises(AssertionError):
            check_named(wrong)


def test_every_example_in_the_help_is_taken() -> None:
    examples = [example for family in FAMILIES for example in family.VERBS.values()]
    assert len(examples) > 20
    for example in examples:
        check_whole(example.removeprefix("retain "))


@pytest.mark.parametrize("page", PAGES)
def test_a_target_of_make_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    assert set(_made(page)) <= targets


def _made(page: str) -> Iterator[str]:
    for words in (*fenced(page), *spans(page)):
        yield from re.findall(r"(?:^|&& )make ([a-z][a-z-]*)(?=$| )", words)
