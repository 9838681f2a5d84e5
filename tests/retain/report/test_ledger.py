"""The generations of a retraining, drawn."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from retain.gate.ledger import Entry, as_rows, balance


def lines(drops: Sequence[float], budget: float = 4.0) -> list[Entry]:
    return [Entry(i, f"sha256:{i:064d}", "sha256:b", "pass", d, d - 0.9, d + 0.9, d + 0.7, budget) for i, d in enumerate(drops, 1)]  # fmt: skip


@pytest.fixture
def drawn(decided: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """drawn(drops) → the page of a run whose verdict's folder has that ledger."""

    def build(drops: Sequence[float]) -> str:
        run, found = decided(), lines(drops)
        value = {
            "schema": "retain.ledger/1",
            "name": "orders",
            "entries": as_rows(found),
            "balance": asdict(balance(found)),
        }
        (tmp_path / "verdict" / "ledger.json").write_text(json.dumps(value), encoding="utf-8")
        return str(run.page())

    return build


def test_every_generation_is_a_dot_with_its_interval_and_the_last_is_the_candidate(drawn: Callable[..., str]) -> None:
    page = drawn([0.4, 1.1, 0.9])
    section = page[page.index("<h2>Generations</h2>") : page.index("<h2>Items that flipped</h2>")]
    assert section.count('class="s-blue" stroke-linecap="round"') == 2
    assert section.count('class="s-warn" stroke-linecap="round"') == 1
    assert "3 generations together changed the general average by −0.90 points" in section
    assert "3.10 points are left" in section
    assert "largest loss between two generations was 0.70 points" in section
    assert re.findall(r">(v\d|base)</span>", section) == ["base", "v1", "v2", "v3"]


def test_a_spent_budget_is_said_and_the_first_generation_stands_alone(drawn: Callable[..., str]) -> None:
    assert "no longer surely kept" in drawn([0.5, 3.6])
    first = drawn([0.5])
    assert "With this candidate, 1 generation together" in first
    assert "largest loss" not in first


def test_many_generations_have_few_words_below(drawn: Callable[..., str]) -> None:
    names = re.findall(r">(v\d+)</span>", drawn([0.02 * i for i in range(1, 41)]))
    assert len(names) <= 6
    assert names[-1] == "v40"


def test_without_a_ledger_there_is_no_section(decided: Callable[..., Any]) -> None:
    assert "<h2>Generations</h2>" not in decided().page()
