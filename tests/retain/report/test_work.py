"""The page as a whole: order, size, safety in the sandboxed frame, and what is left out."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from retain.errors import IntegrityError
from retain.gate.verdict import SCHEMA
from retain.report.work import RunFolders, write_report

HOSTILE = (
    "\"><script>alert('x')</script><img src=https://evil.example/x onerror=alert(1)>&amp;--><a href='#x'>\u2028\x07"
)
SECTION_OF = {
    "history": "<h2>Training</h2>", "recipe": "<h2>Settings in force</h2>", "rejects": "<h3>Rows refused: 38</h3>", "mixture": "<h3>Mixture: ",
    "preview": "<h3>Rows as the model sees them</h3>",
}  # fmt: skip


class Tags(HTMLParser):
    """All tags and attributes of a page; what is escaped is none."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def is_safe(page: str) -> None:
    tags = Tags(page).tags
    assert len(tags) > 50
    assert not {tag for tag, _ in tags} & {
        "script",
        "img",
        "a",
        "link",
        "iframe",
        "object",
        "form",
        "base",
        "video",
        "audio",
    }
    named = [name for _, attributes in tags for name in attributes]
    assert not [name for name in named if name.startswith("on") or name in {"href", "src", "xlink:href", "action"}]
    assert "url(" not in page
    assert "@import" not in page
    assert 'href="#' not in page


def test_starts_with_the_doctype_and_the_verdict_in_a_comment(decided: Callable[..., Any]) -> None:
    head = decided().page().encode()[:255].decode()
    assert head.startswith("<!doctype html>\n<!-- PASS: Passed: this model may be published; general ")
    assert " points, margin 2; target +5" in head
    assert "-->" in head


def test_order_of_the_sections(whole: Callable[..., Any]) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", whole().page())
    assert titles == [
        "What changed", "The target's rows, before and after", "Items that flipped", "Confidence in the right choice", "Training",
        "Data", "Settings in force", "Lineage", "Check it yourself",
    ]  # fmt: skip


@pytest.mark.parametrize("name", SECTION_OF)
def test_what_a_run_does_not_have_is_left_out(whole: Callable[..., Any], name: str) -> None:
    run = whole()
    assert SECTION_OF[name] in run.page()
    page = run.without(name).page()
    assert SECTION_OF[name] not in page
    is_safe(page)


def test_only_a_verdict(decided: Callable[..., Any], tmp_path: Path) -> None:
    run = decided().without("base_scores", "candidate_scores")
    (tmp_path / "verdict" / "evidence.json").unlink()
    titles = re.findall(r"<h2>(.*?)</h2>", run.page())
    assert titles == ["What changed", "Lineage"]


def test_a_skipped_step_leaves_a_name_without_a_file(decided: Callable[..., Any], tmp_path: Path) -> None:
    run = decided()
    run.folders = RunFolders.of(
        base_scores=str(tmp_path / "base"),
        candidate_scores=str(tmp_path / "tuned"),
        history=str(tmp_path / "none"),
        preview="",
    )
    assert "<h2>Training</h2>" not in run.page()


def test_an_unknown_artifact_is_refused() -> None:
    with pytest.raises(TypeError, match="no such artifact in a report: histroy"):
        RunFolders.of(histroy="x")


def test_a_damaged_artifact_is_an_integrity_error(whole: Callable[..., Any]) -> None:
    run = whole()
    run.folders.history.write_text("{", encoding="utf-8")
    with pytest.raises(IntegrityError, match="damaged"):
        run.page()


def test_hostile_text_stays_text(whole: Callable[..., Any], harmed: Any) -> None:
    page = whole(harmed, hostile=HOSTILE).page()
    is_safe(page)
    assert page.count("&lt;script&gt;alert(&#x27;x&#x27;)") > 20
    assert "<!--" not in page[page.index("-->") :]


def test_hostile_names_of_benchmarks_and_people(decided: Callable[..., Any], general: Any, tmp_path: Path) -> None:
    run = decided({f"{name}{HOSTILE}": bench for name, bench in general.items()})
    path = tmp_path / "verdict" / "verdict.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    waiver = {"benchmark": HOSTILE, "who": HOSTILE, "why": HOSTILE, "until": "2030-01-01", "holds": True}
    path.write_text(json.dumps({**value, "waivers": [waiver], "warnings": [HOSTILE]}), encoding="utf-8")
    is_safe(run.page())


def test_never_beyond_two_megabytes(whole: Callable[..., Any], harmed: Any) -> None:
    bench = replace(harmed["facts"], items=40)
    page = whole({f"benchmark_{i:03d}": bench for i in range(150)}, hostile="word " * 4000).page()
    assert 100_000 < len(page.encode()) < 2_000_000


def test_scores_that_cannot_be_compared(tmp_path: Path) -> None:
    reason = {
        "code": "integrity",
        "benchmark": "",
        "got": f"the two scorings differ in dtype {HOSTILE}",
        "limit": 0.0,
        "items_needed": 0,
        "role": "base",
    }
    verdict = {
        "schema": SCHEMA,
        "verdict": "integrity",
        "action": "stop",
        "exit_code": 6,
        "reasons": [reason],
        "candidate_digest": "",
        "policy": {},
    }
    (tmp_path / "verdict").mkdir()
    (tmp_path / "verdict" / "verdict.json").write_text(json.dumps(verdict), encoding="utf-8")
    write_report(tmp_path / "verdict", tmp_path / "report.html", RunFolders())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Closed: the two scorings cannot be compared" in page
    assert "the two scorings differ in dtype" in page
    assert "Score both models again" in page
