"""The forest plot: change is up, drawn where it belongs; tiers apart; the target on its own scale."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from retain.gate.config import GatePolicy
from retain.gate.work import gate
from retain.report import svg
from retain.report.forest import HEIGHT


def row_of(page: str, name: str) -> str:
    found = re.search(rf'<div class="row[^"]*"><div class="name">{name}<br>.*?</div></div>', page, re.DOTALL)
    assert found, name
    return found[0]


def lines_of(row: str, kind: str) -> list[tuple[float, float]]:
    """(x1, x2) of the level lines of a kind."""
    return [
        (float(a), float(b))
        for a, b in re.findall(rf'class="s-{kind}"[^>]*d="M([\d.]+) {HEIGHT / 2:g}L([\d.]+) {HEIGHT / 2:g}"', row)
    ]


def test_a_loss_stands_left_of_zero_with_its_interval(decided: Callable[..., Any], general: Any, harmed: Any) -> None:
    run = decided({**general, "facts": harmed["facts"]})
    page = run.page()
    verdict = json.loads((run.folder / "verdict" / "verdict.json").read_text(encoding="utf-8"))
    facts = next(r for r in verdict["benchmarks"] if r["name"] == "facts")
    row = row_of(page, "facts")
    assert f"<b>−{facts['drop_points']:.2f}</b>" in row
    [(x1, x2)] = lines_of(row, "bad")
    reach = 500 / max(abs(v) for r in (*verdict["benchmarks"], verdict["macro"]) for v in (r["low"], r["high"])) / 1.12
    assert (x1, x2) == pytest.approx((500 - reach * facts["high"], 500 - reach * facts["low"]), abs=0.2)
    assert x2 < 500
    assert lines_of(row_of(page, "reading"), "blue")


def test_the_average_is_a_diamond_as_wide_as_its_interval(decided: Callable[..., Any], harmed: Any) -> None:
    for benches, kind in ((None, "good"), (harmed, "bad")):
        row = row_of((decided(benches) if benches else decided()).page(), "Average")
        [(left, middle, right)] = re.findall(rf'class="f-{kind}" d="M([\d.]+) 15L([\d.]+) 6L([\d.]+) 15L', row)
        assert float(left) < float(middle) < float(right)


def test_an_average_that_is_not_sure_is_neither_green_nor_red(decided: Callable[..., Any], general: Any) -> None:
    assert 'class="value warn"' in row_of(
        decided(general, policy=GatePolicy(macro_margin_points=0.5)).page(), "Average"
    )


def test_margin_line_and_own_limits_are_drawn(decided: Callable[..., Any]) -> None:
    narrow, wide = (decided(policy=GatePolicy(macro_margin_points=m)).page() for m in (1.0, 3.0))
    places = [float(re.findall(r'class="s-margin" d="M([\d.]+)', row_of(page, "facts"))[0]) for page in (narrow, wide)]
    assert places[1] < places[0] < 500
    assert "margin of the average, −3" in wide
    assert 'class="s-warn"' in row_of(narrow, "facts")


def test_more_items_are_a_larger_square(decided: Callable[..., Any], general: Any) -> None:
    page = decided({"few": replace(general["facts"], items=100), "many": replace(general["facts"], items=900)}).page()
    sizes = [
        float(re.findall(r'stroke-linecap="square" stroke-width="([\d.]+)"', row_of(page, name))[0])
        for name in ("few", "many")
    ]
    assert sizes[0] < sizes[1] == 12


def test_tiers_stand_apart(decided: Callable[..., Any], general: Any) -> None:
    policy = GatePolicy.model_validate(
        {
            "macro_margin_points": 2.0,
            "benchmarks": {"facts": {"tier": "critical", "max_drop": 5.0}, "reading": {"tier": "advisory"}},
        }
    )
    page = decided({**general, "guesses": replace(general["facts"], right=0.22)}, policy=policy).page()
    titles = re.findall(r'<div class="tier">(\w+)', page)
    assert titles == ["critical", "supporting", "advisory", "left"]
    assert lines_of(row_of(page, "guesses"), "soft")
    assert "guesses tells nothing: the baseline is near chance" in page


def test_the_target_runs_from_base_to_tuned_on_its_own_scale(decided: Callable[..., Any]) -> None:
    run = decided()
    target = json.loads((run.folder / "verdict" / "verdict.json").read_text(encoding="utf-8"))["target"]
    page = run.page()
    assert (
        f"What it was tuned for: {100 * target['base']:.1f}\N{NO-BREAK SPACE}% → {100 * target['tuned']:.1f}\N{NO-BREAK SPACE}%"
        in page
    )
    row = row_of(page, "target")
    dots = [float(x) for x in re.findall(r'stroke-linecap="round"[^>]*d="M([\d.]+)', row)]
    assert dots == pytest.approx([1000 * target["base"], 1000 * target["tuned"]], abs=0.1)


def test_a_target_in_nats_and_none_at_all(decided: Callable[..., Any]) -> None:
    run = decided()
    path = run.folder / "verdict" / "verdict.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    value["target"] |= {
        "metric": "token_loss",
        "base": -2.31,
        "tuned": -1.02,
        "drop_points": -129.0,
        "low": -135.0,
        "high": -123.0,
    }
    path.write_text(json.dumps(value), encoding="utf-8")
    row = row_of(run.page(), "target")
    dots = [float(x) for x in re.findall(r'stroke-linecap="round"[^>]*d="M([\d.]+)', row)]
    assert 0 < dots[0] < dots[1] < 1000
    value["target"] = {"name": "target", "rule": "none", "passes": True, "worse": False}
    path.write_text(json.dumps(value), encoding="utf-8")
    assert "What it was tuned for" not in run.page()


def test_a_retraining_shows_both_comparisons(decided: Callable[..., Any], tmp_path: Any) -> None:
    run = decided()
    gate(
        GatePolicy(macro_margin_points=2.0),
        tmp_path / "base",
        tmp_path / "tuned",
        tmp_path / "verdict",
        champion_scores=tmp_path / "base",
    )
    page = run.page()
    assert "<h2>Against the original base</h2>" in page
    assert len(re.findall("<h3>General ability</h3>", page)) == 2


def test_the_table_has_four_columns_and_every_benchmark(decided: Callable[..., Any], general: Any) -> None:
    page = decided().page()
    table = page[page.index("<th>base → tuned</th>") - 100 : page.index("</table>")]
    assert table.count("<th>") == 4
    assert table.count("<tr><td>") == len(general) + 1
    assert all(f"<td>{name}<br>" in table for name in (*general, "target"))


def test_ticks_are_round_and_inside() -> None:
    assert svg.ticks(-5, 5, 5) == [-4, -2, 0, 2, 4]
    assert svg.ticks(0, 1, 4) == [0, 0.5, 1]
    assert svg.ticks(-0.013, 0.013, 6) == [-0.01, -0.005, 0, 0.005, 0.01]
    assert svg.ticks_text([-0.5, 0, 0.25]) == [(-0.5, "−0.50"), (0, "0.00"), (0.25, "0.25")]


def test_words_at_the_ends_of_an_axis_stay_inside() -> None:
    marks = svg.axis(svg.Scale(0, 10), ((0, "low"), (5, "mid"), (10, "high")))
    assert '<span style="left:0.00%;transform:none">low</span>' in marks
    assert '<span style="left:50.00%">mid</span>' in marks
    assert '<span style="left:100.00%;transform:translateX(-100%)">high</span>' in marks
