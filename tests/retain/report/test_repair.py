"""The target-versus-general curve: every member drawn and listed, the chosen one marked; nothing chosen: the next training."""

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from retain.artifacts import read_json, write_json
from retain.gate.config import GatePolicy
from retain.repair.config import RepairConfig
from retain.repair.proposal import Change, forget_less

RECIPE = {"train": {"method": "full", "learning_rate": 1e-3}, "data": {"replay": {"share": 0.0}}}
Write = Callable[..., Path]


def members(method: str, harm: float = 14.0) -> list[dict[str, Any]]:
    return [
        {"method": method, "strength": s, "drop_seen": harm * s * s + 0.3 * (-1) ** i, "drop": harm * s * s, "gain_seen": 45 * s ** 0.5 - i % 2,
         "gain": 45 * s ** 0.5, "probability": round(1 / (1 + (s / 0.45) ** 8), 3), "kept": round(s**0.5, 3), "benchmarks": {"facts": harm * s * s}}
        for i, s in enumerate(RepairConfig().strengths)
    ]  # fmt: skip


@pytest.fixture
def repaired(decided: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """repaired(chosen index or None, methods) → the page of a run with a repair."""

    def build(chosen: int | None = 6, methods: tuple[str, ...] = ("strength",), notes: list[str] | None = None) -> str:
        run = decided(policy=GatePolicy(macro_margin_points=2.0, on_fail="repair"))
        tried = [row for i, method in enumerate(methods) for row in members(method, 14.0 - 5 * i)]
        digest = read_json(run.folder / "verdict" / "verdict.json", schema="retain.verdict/1")["candidate_digest"]
        write_json(tmp_path / "sweep" / "repair.json", {
            "model_digest": digest, "gated": {"drop_points": 14.0, "gain_points": 60.0},
            "schema": "retain.repair/1", "config": RepairConfig().as_parameter(), "policy": {"macro_margin_points": 2.0}, "attempt": 2,
            "items": {"dev": {"facts": 660}, "decision": {"facts": 1500}}, "tried": tried, "chosen": {} if chosen is None else tried[chosen],
            "changes": [] if chosen is not None else [asdict(change) for change in forget_less(RECIPE)], "notes": notes or [],
        })  # fmt: skip
        run.folders = replace(run.folders, repair=tmp_path / "sweep")
        return str(run.page())

    return build


def section(page: str) -> str:
    start = page.index("<h2>Repair without training</h2>")
    return page[start : page.index("<h2>", start + 4)]


def test_the_chosen_point_is_marked_and_what_it_gave_back_is_said(repaired: Callable[..., str]) -> None:
    shown = section(repaired())
    assert "Chosen: the whole change weaker, strength 0.3. It was predicted to pass in 96 % of runs." in shown
    assert re.search(r"On the items that decide, \d+ % of the lost general score came back \(.14.00 to .\d.\d\d points\) and \d+ % of the target&#x27;s gain was kept", shown)  # fmt: skip
    assert shown.count('class="s-good"') == 1
    assert shown.count('class="s-blue" stroke-linecap') == 7
    assert "<b>0.3 ←</b>" in shown
    assert re.findall(r'top:[\d.]+%">([\d.]+)</b>', shown) == ["1", "0.3"]
    assert "at attempt 2" in shown
    assert "The next training" not in shown


def test_methods_are_told_apart(repaired: Callable[..., str]) -> None:
    shown = section(repaired(10, ("strength", "depth"), ["intruders was not tried: <b>a plain LoRA only</b>"]))
    assert "early layers weaker than late ones, strength 0.7" in shown
    assert shown.count("s-warn") >= 8
    assert "<b>0.7, depth ←</b>" in shown
    assert "&lt;b&gt;a plain LoRA only" in shown


def test_without_a_choice_the_next_training_is_proposed(repaired: Callable[..., str]) -> None:
    page = repaired(None)
    shown = section(page)
    assert "No attempt was spent" in shown
    assert "- train.method: full\n+ train.method: lora" in shown
    assert "goes on with a repair" not in page
    assert Change("a.b", 1, 2, "why").flag == "--set a.b=2"


def test_a_run_without_a_repair_has_no_such_section(decided: Callable[..., Any]) -> None:
    assert "Repair without training" not in decided().page()
