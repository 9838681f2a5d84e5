"""The forest plot: change of every benchmark with its interval, the average as a diamond, the target apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retain.page import Html, esc, table
from retain.report import svg
from retain.report.material import Material
from retain.report.words import MINUS, change, plural, score, signed, soft, span

CSS = """
.forest{margin:.6em 0}.forest .row{display:grid;grid-template-columns:minmax(150px,27%) 1fr 150px;column-gap:16px;align-items:center}
.forest .row>*{min-width:0}.forest .draw{align-self:stretch}.forest .draw>.chart:only-child{height:100%;min-height:var(--h)}.forest .name{overflow-wrap:anywhere;line-height:1.3;padding:3px 0}.forest .name span{font-size:12.5px}
.forest .value{text-align:right;font-variant-numeric:tabular-nums;line-height:1.3;font-size:13px;color:var(--soft)}.forest .value b{font-size:15px;color:var(--ink)}
.forest .tier{font-size:12.5px;color:var(--soft);margin:.7em 0 .1em}.forest .total .name{font-weight:600}.forest .total .soft{font-weight:400}.forest .value.bad b{color:var(--bad)}.forest .value.good b{color:var(--good)}.forest .value.warn b{color:var(--warn)}
@media (max-width:640px){.forest .row{grid-template-columns:1fr auto;column-gap:10px}.forest .draw{grid-column:1/-1;grid-row:2}.forest .axisrow>:not(.draw){display:none}.forest .name{padding-top:8px}}
"""
TIERS = {
    "critical": "critical: each has a margin of its own",
    "supporting": "supporting: in the average, and none may fall beyond chance",
    "advisory": "advisory: reported only",
    "uninformative": "left out: the baseline is near chance",
}
HEIGHT, PADDING = 30, 1.12
Row = Mapping[str, Any]


def forest(material: Material) -> str:
    """Section: what changed; with a second plot against the original base in a retraining."""
    verdict = material.verdict
    if not verdict.get("macro"):
        return ""
    parts = ["<h2>What changed</h2>", _target(verdict["target"]), _general(verdict, verdict["reasons"])]
    parts.append(_table(verdict))
    if before := verdict.get("cumulative"):
        parts += ["<h2>Against the original base</h2><p>What all generations together changed; the margins are wider here.</p>"]  # fmt: skip
        parts += [_target(before["target"]), _general(before, verdict["reasons"]), _table(before)]
    return "\n".join(parts)


def tier_of(row: Row) -> str:
    return str(row["tier"]) if row["status"] == "judged" else str(row["status"])


def _general(found: Row, reasons: Sequence[Row]) -> str:
    macro, rows = found["macro"], found["benchmarks"]
    margin, scale = macro["margin_points"], _scale(found)
    most = max((row["n"] for row in rows), default=1)
    blamed = {r["benchmark"] for r in reasons if r["code"] in {"benchmark_drop", "critical_margin"}}
    lines = []
    for tier, meaning in TIERS.items():
        mine = sorted((row for row in rows if tier_of(row) == tier), key=lambda row: row["drop_points"], reverse=True)
        lines += [f'<div class="tier">{esc(meaning)}</div>'] if mine else []
        lines += [_line(row, scale, margin, most, blamed) for row in mine]
    lines += [_total(macro, scale), _axis(scale)]
    legend = svg.key([("var(--ink)", "no change"), ("var(--bad)", f"margin of the average, {MINUS}{margin:g}"), ("#c98a00", "a benchmark's own limit")])  # fmt: skip
    note = "Change in points (hundredths of the metric), tuned minus baseline, with 95 % intervals; larger squares rest on more items."
    return f'<h3>General ability</h3><p class="soft">{esc(note)}</p>{legend}<div class="forest">{"".join(lines)}</div>'


def _scale(found: Row) -> svg.Scale:
    macro = found["macro"]
    ends = [abs(value) for row in (*found["benchmarks"], macro) for value in (row["low"], row["high"])]
    reach = max([1.4 * macro["margin_points"], *ends]) * PADDING
    return svg.Scale(-reach, reach)


def _ground(scale: svg.Scale, margin: float) -> Iterator[str]:
    yield svg.block(0, 0, scale.at(-margin), HEIGHT, "harm")
    for value in svg.ticks(scale.low, scale.high):
        yield svg.line(scale.at(value), 0, scale.at(value), HEIGHT, "grid")
    yield svg.line(scale.at(-margin), 0, scale.at(-margin), HEIGHT, "margin")
    yield svg.line(scale.at(0), 0, scale.at(0), HEIGHT, "zero")


def _line(row: Row, scale: svg.Scale, margin: float, most: int, blamed: set[str]) -> str:
    moved, low, high = change(row)
    judged = row["status"] == "judged"
    kind = "bad" if row["name"] in blamed else "blue" if judged else "soft"
    size = 5 + 7 * (row["n"] / most) ** 0.5
    middle = HEIGHT / 2
    shapes = [*_ground(scale, margin)]
    if judged and scale.holds(-row["max_drop"]):
        at = scale.at(-row["max_drop"])
        shapes.append(svg.line(at, middle - 7, at, middle + 7, "warn", 2))
    shapes += [svg.line(scale.at(low), middle, scale.at(high), middle, kind, 2), svg.dot(scale.at(moved), middle, size, kind, square=True)]  # fmt: skip
    about = f"{plural(row['n'], 'item')}, {row['b']:,} lost, {row['c']:,} won"
    return _row(row["name"], about, svg.chart(shapes, HEIGHT, _spoken(row["name"], moved, low, high)), moved, low, high, kind)  # fmt: skip


def _total(macro: Row, scale: svg.Scale) -> str:
    moved, low, high = change(macro)
    kind = "good" if macro["passes"] else "bad" if macro["lower_points"] > 0 else "warn"
    middle = scale.at(moved)
    shape = svg.diamond(min(scale.at(low), middle - 4), middle, max(scale.at(high), middle + 4), HEIGHT / 2, 9, kind)
    drawn = svg.chart([*_ground(scale, macro["margin_points"]), shape], HEIGHT, _spoken("average", moved, low, high))
    about = f"over {plural(macro['benchmarks'], 'benchmark')}; at worst {signed(-macro['upper_points'])}"
    return _row("Average", about, drawn, moved, low, high, kind, total=True)


def _spoken(name: str, moved: float, low: float, high: float) -> str:
    return f"{name}: {signed(moved)} points, 95 % interval {span(low, high)}"


def _row(name: str, about: str, drawn: str, moved: float, low: float, high: float, kind: str, *, total: bool = False) -> str:  # fmt: skip
    tone = f" {kind}" if kind in {"good", "bad", "warn"} else ""
    return (
        f'<div class="row{" total" if total else ""}"><div class="name">{esc(name)}<br>{soft(about)}</div><div class="draw">{drawn}</div>'
        f'<div class="value{tone}"><b>{esc(signed(moved))}</b><br>{esc(span(low, high))}</div></div>'
    )


def _axis(scale: svg.Scale) -> str:
    marks = svg.axis(scale, svg.ticks_text(svg.ticks(scale.low, scale.high)))
    ends = svg.axis(scale, ((scale.low, "← worse"), (scale.high, "better →")))
    return f'<div class="row axisrow"><div></div><div class="draw">{marks}{ends}</div><div></div></div>'


def _target(target: Row) -> str:
    """From baseline to tuned on the metric's own scale: a gain of 50 points would flatten everything else."""
    if "n" not in target:
        return ""
    moved, low, high = change(target)
    kind = "bad" if target["worse"] else "good" if target["passes"] else "warn"
    drawn = _dumbbell(target, moved, low, high, kind)
    about = f"{target['metric']}, {plural(target['n'], 'row')}; {target['c']:,} learned, {target['b']:,} lost"
    rule = {"improved": "must surely improve", "not_worse": "must not get worse", "none": "not tested"}[target["rule"]]
    row = _row(target["name"], about, drawn, moved, low, high, kind)
    said = f"{score(target['base'], target)} → {score(target['tuned'], target)}"
    return f'<h3>What it was tuned for: {esc(said)} {soft(f"({rule})")}</h3><div class="forest">{row}</div>'


def _dumbbell(target: Row, moved: float, low: float, high: float, kind: str) -> str:
    base, tuned = target["base"], target["tuned"]
    up = -1.0 if (tuned - base) * moved < 0 else 1.0  # −1: a metric that is better when lower
    ends = sorted((base + up * low / 100, base + up * high / 100))
    scale = svg.Scale(0, 1) if 0 <= base <= 1 and 0 <= tuned <= 1 else _around(base, tuned, *ends)
    y = HEIGHT / 2 - 3
    shapes = [svg.line(0, HEIGHT - 4, svg.WIDTH, HEIGHT - 4, "grid")]
    shapes += [svg.line(scale.at(v), 2, scale.at(v), HEIGHT - 4, "grid") for v in svg.ticks(scale.low, scale.high)]
    shapes += [
        svg.line(scale.at(base), y, scale.at(tuned), y, "soft", 2), svg.line(scale.at(ends[0]), y, scale.at(ends[1]), y, kind, 5),
        svg.dot(scale.at(base), y, 11, "soft"), svg.dot(scale.at(tuned), y, 13, kind),
    ]  # fmt: skip
    words = ((v, score(v, target)) for v in svg.ticks(scale.low, scale.high, 4))
    return svg.chart(shapes, HEIGHT, _spoken(target["name"], moved, low, high)) + svg.axis(scale, words)


def _around(*values: float) -> svg.Scale:
    room = 0.15 * ((max(values) - min(values)) or 1.0)
    return svg.Scale(min(values) - room, max(values) + room)


def _table(found: Row) -> str:
    rows = [_cells(row, tier_of(row)) for row in sorted(found["benchmarks"], key=lambda row: row["drop_points"], reverse=True)]  # fmt: skip
    if "n" in found["target"]:
        rows.insert(0, _cells(found["target"], "target"))
    return table(["benchmark", "base → tuned", "change, 95 %", "items, flips"], rows)


def _cells(row: Row, part: str) -> list[object]:
    moved, low, high = change(row)
    flips = f"{MINUS}{row['b']:,} +{row['c']:,}"
    return [
        Html(f"{esc(row['name'])}<br>{soft(', '.join(x for x in (part, row.get('metric', '')) if x))}"),
        f"{score(row['base'], row)} → {score(row['tuned'], row)}",
        Html(f"<b>{esc(signed(moved))}</b><br>{soft(span(low, high))}"),
        Html(f"{row['n']:,}<br>{soft(flips)}"),
    ]  # fmt: skip
