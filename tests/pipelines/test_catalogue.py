"""The generated pages say what the code does."""

from pathlib import Path

import pytest

from retain_pipelines import catalogue, compiling

ROOT = Path(__file__).resolve().parents[2]


PAGES = catalogue.pages()


@pytest.mark.parametrize(("path", "text"), PAGES.items())
def test_a_generated_page_is_up_to_date(path: str, text: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == text, "run `make docs`"


def test_every_setting_says_what_it_means() -> None:
    rows = [
        line for line in PAGES["pipelines/README.md"].splitlines() if line.startswith("| `") and line.count("|") > 3
    ]
    assert len(rows) > 120
    assert not [row for row in rows if row.endswith("|  |")]
    own = {tuple(row.split("`")[1:4:2]) for row in rows if row.split("`")[1] in compiling.PIPELINES}
    assert {
        ("regression-gate", "candidate_model"),
        ("domain-adapters", "merge_weights"),
        ("retrain", "data_window_days"),
    } <= own
    assert any(row.startswith("| `min_confidence` |") for row in rows)
