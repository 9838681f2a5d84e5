"""What the generations of a scheduled retraining lost against the original base, and how much of the budget is left."""

from collections.abc import Mapping, Sequence
from typing import Any

from retain.page import Html, details, esc, table
from retain.report import svg
from retain.report.material import Material
from retain.report.words import MINUS, short, signed, soft, span

HEIGHT = 200
WIDEST = 8  # dots across, pixels
Line = Mapping[str, Any]


def ledger(material: Material) -> str:
    """Section: the change of every generation against the original base, with the budget as the line not to cross."""
    if not material.ledger:
        return ""
    lines, balance = material.ledger["entries"], material.ledger["balance"]
    budget = lines[-1]["budget_points"]
    names = [("var(--blue)", "published generations"), ("#c98a00", "this candidate"), ("var(--bad)", f"budget, {MINUS}{budget:g}")]  # fmt: skip
    rows = details("All generations", table(["generation", "change, 95 %", "at worst", "model"], [_cells(line) for line in reversed(lines)]))  # fmt: skip
    return f"<h2>Generations</h2><p>{esc(_sentence(lines, balance, budget))}</p>{svg.key(names)}{_chart(lines, budget)}{rows}"  # fmt: skip


def _sentence(lines: Sequence[Line], balance: Line, budget: float) -> str:
    last = lines[-1]
    held = (
        "The budget is no longer surely kept."
        if balance["exceeded"]
        else f"{balance['left_points']:.2f} points are left."
    )
    text = (
        f"With this candidate, {len(lines)} generation{'s' if len(lines) > 1 else ''} together changed the general average by {signed(-balance['spent_points'])} points "
        f"against the original base (at worst {signed(-last['upper_points'])}); the budget is {MINUS}{budget:g}. {held}"
    )
    if len(lines) > 1 and balance["worst_step_points"] > 0:
        text += f" The largest loss between two generations was {balance['worst_step_points']:.2f} points."
    return text


def _chart(lines: Sequence[Line], budget: float) -> str:
    y = _scale(lines, budget)
    x = svg.Scale(0, len(lines) + 1)
    shapes = [svg.block(0, y.at(-budget), svg.WIDTH, HEIGHT, "harm")]
    shapes += [svg.line(0, y.at(v), svg.WIDTH, y.at(v), "grid") for v in svg.ticks(y.high, y.low, 5)]
    shapes += [svg.line(0, y.at(0), svg.WIDTH, y.at(0), "zero"), svg.line(0, y.at(-budget), svg.WIDTH, y.at(-budget), "margin")]  # fmt: skip
    places = [(x.at(i), y.at(-line["drop_points"])) for i, line in enumerate(lines, 1)]
    shapes.append(svg.curve([(x.at(0), y.at(0)), *places], "soft", 1.5))
    for i, (line, (at, change)) in enumerate(zip(lines, places, strict=True), 1):
        kind = "warn" if i == len(lines) else "blue"
        shapes += [svg.line(at, y.at(-line["high"]), at, y.at(-line["low"]), kind, 2), svg.dot(at, change, WIDEST, kind)]  # fmt: skip
    marks = "".join(f'<span style="top:{100 * y.at(v) / HEIGHT:.1f}%">{text}</span>' for v, text in svg.ticks_text(svg.ticks(y.high, y.low, 5)))  # fmt: skip
    spoken = "Change of the general average against the original base, points, by generation"
    words = svg.axis(x, [(0, "base"), *_names(lines)])
    return f'<div class="plot"><div class="ys" aria-hidden="true">{marks}</div>{svg.chart(shapes, HEIGHT, spoken)}{words}</div>'  # fmt: skip


def _names(lines: Sequence[Line]) -> list[tuple[float, str]]:
    """At most six words under the chart, the last one always: so many stand side by side on a phone."""
    every = -(-len(lines) // 6)
    return [(i, f"v{line['generation']}") for i, line in enumerate(lines, 1) if (len(lines) - i) % every == 0]


def _scale(lines: Sequence[Line], budget: float) -> svg.Scale:
    """y points down: its low end is the greatest gain."""
    top = max([0.0, *(-line["low"] for line in lines)])
    bottom = min([-budget, *(-line["high"] for line in lines)])
    room = 0.1 * (top - bottom)
    return svg.Scale(top + room, bottom - room, HEIGHT)


def _cells(line: Line) -> list[object]:
    change = Html(f"<b>{esc(signed(-line['drop_points']))}</b><br>{soft(span(-line['high'], -line['low']))}")
    return [f"v{line['generation']}", change, signed(-line["upper_points"]), short(line["candidate_digest"])]
