"""What weakening the change gives back and what it costs: target against general ability, the chosen point marked."""

from collections.abc import Mapping, Sequence
from typing import Any

from retain.page import Html, esc, table
from retain.repair.proposal import Change, diff
from retain.report import svg
from retain.report.material import Material
from retain.report.words import plural, signed, soft

CSS = """
.over{position:relative;grid-column:2}.over b{position:absolute;font-size:12px;line-height:1;font-weight:600;white-space:nowrap;transform:translate(-50%,-175%);font-variant-numeric:tabular-nums}.n .soft{white-space:normal}.over b.left{transform:translate(0,-175%)}.over b.right{transform:translate(-100%,-175%)}
"""
HEIGHT = 230
KINDS = {"strength": ("blue", "#1f5fbf"), "depth": ("warn", "#c98a00"), "intruders": ("soft", "#97a1ad")}
NAMES = {"strength": "the whole change weaker", "depth": "early layers weaker than late ones", "intruders": "intruding directions reduced"}  # fmt: skip
LEAST_POINTS = 1.0  # shown: a smaller stretch would make noise look like a trade-off
Row = Mapping[str, Any]


def repair(material: Material) -> str:
    """Section: the sweep of a repair; empty where none was tried."""
    told = material.repair
    if not told:
        return ""
    proposal = "" if told["chosen"] else _proposal(told)
    return f"<h2>Repair without training</h2>{_sentence(told, material.verdict)}{_figure(told)}{_table(told)}{_footnote(told)}{proposal}"


def _sentence(told: Row, verdict: Row) -> str:
    one = told["chosen"]
    if not one:
        return f"<p>{esc(f'No attempt was spent: {_why_not(told)}.')}</p>"
    text = f"Chosen: {NAMES[one['method']]}, strength {one['strength']:g}. It was predicted to pass in {100 * one['probability']:.0f} % of runs."
    return f"<p>{esc(f'{text} {shares(told, verdict)}'.strip())}</p>"


def _why_not(told: Row) -> str:
    least, floor = told["config"]["least"], told["config"]["least_kept"]
    if not told["tried"]:
        return "these items allow no further verdict"
    best = max(row["probability"] for row in told["tried"])
    if best >= least:
        return f"what would pass keeps less than {100 * floor:.0f} % of the target's gain"
    return f"the best of what was tried would pass in {100 * best:.0f} % of runs, and below {100 * least:.0f} % it is not worth one"


def shares(told: Row, verdict: Row) -> str:
    """What came back and what was kept, on the items that decided both verdicts; empty before the second one."""
    if not told or verdict.get("candidate_digest") != told["model_digest"] or not verdict.get("macro"):
        return ""
    (lost, gained), said = (told["gated"]["drop_points"], told["gated"]["gain_points"]), []
    now, kept = verdict["macro"]["drop_points"], -verdict["target"].get("drop_points", 0.0)
    if lost > 0:
        said.append(
            f"{min(100.0, 100 * (1 - now / lost)):.0f} % of the lost general score came back ({signed(-lost)} to {signed(-now)} points)"
        )
    if gained > 0:
        said.append(
            f"{100 * kept / gained:.0f} % of the target's gain was kept ({signed(gained, 1)} to {signed(kept, 1)})"
        )
    return f"On the items that decide, {' and '.join(said)}." if said else ""


def _figure(told: Row) -> str:
    rows = told["tried"]
    if not any(row["gain_seen"] for row in rows):  # nothing was tried, or no target is asked
        return ""
    margin = told["policy"]["macro_margin_points"]
    x = _scale([-row["drop_seen"] for row in rows] + [-row["drop"] for row in rows] + [0.0, -1.2 * margin], svg.WIDTH)
    up = _scale([row["gain_seen"] for row in rows] + [row["gain"] for row in rows] + [0.0], HEIGHT)
    y = svg.Scale(up.high, up.low, HEIGHT)  # points up
    shapes = [svg.block(0, 0, x.at(-margin), HEIGHT, "harm")]
    shapes += [svg.line(0, y.at(v), svg.WIDTH, y.at(v), "grid") for v in svg.ticks(up.low, up.high, 5)]
    shapes += [svg.line(x.at(-margin), 0, x.at(-margin), HEIGHT, "margin"), svg.line(x.at(0), 0, x.at(0), HEIGHT, "zero")]  # fmt: skip
    labels = ""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for method in methods:
        mine = [row for row in rows if row["method"] == method]
        fitted = [(x.at(-row["drop"]), y.at(row["gain"])) for row in mine]
        shapes.append(svg.curve([*fitted, (x.at(0), y.at(0))], KINDS[method][0], 1.5))
        shapes += [svg.dot(x.at(-row["drop_seen"]), y.at(row["gain_seen"]), 8, KINDS[method][0]) for row in mine]
        ends = (mine[0], mine[-1]) if method == methods[0] else (mine[0],)
        labels += "".join(_label(row, x, y) for row in ends if not _is(row, told["chosen"]))
    if one := told["chosen"]:
        shapes.append(svg.dot(x.at(-one["drop_seen"]), y.at(one["gain_seen"]), 16, "good"))
        labels += _label(one, x, y)
    return _framed(shapes, labels, x, y, methods, bool(one))


def _is(row: Row, other: Row) -> bool:
    return bool(other) and (row["method"], row["strength"]) == (other["method"], other["strength"])


def _scale(values: Sequence[float], size: float) -> svg.Scale:
    low, high = min(values), max(values)
    room = max(0.1 * (high - low), (LEAST_POINTS - high + low) / 2)
    return svg.Scale(low - room, high + room, size)


def _label(row: Row, x: svg.Scale, y: svg.Scale) -> str:
    across, down = x.at(-row["drop_seen"]) / 10, 100 * y.at(row["gain_seen"]) / HEIGHT
    side = ' class="left"' if across < 8 else ' class="right"' if across > 92 else ""
    return f'<b{side} style="left:{across:.1f}%;top:{down:.1f}%">{row["strength"]:g}</b>'


def _framed(shapes: Sequence[str], labels: str, x: svg.Scale, y: svg.Scale, methods: Sequence[str], chosen: bool) -> str:  # fmt: skip
    names = [(KINDS[method][1], NAMES[method]) for method in methods]
    names += [("var(--good)", "chosen")] if chosen else []
    marks = "".join(f'<span style="top:{100 * y.at(v) / HEIGHT:.1f}%">{text}</span>' for v, text in svg.ticks_text(svg.ticks(y.high, y.low, 5)))  # fmt: skip
    title = "Gain of the target against change of general ability, in points, at each strength"
    axis = svg.axis(x, svg.ticks_text(svg.ticks(x.low, x.high, 5)))
    return (
        f"<h3>Target (up) against general ability (right), in points</h3>{svg.key(names)}"
        f'<div class="plot"><div class="ys" aria-hidden="true">{marks}</div><div class="over">{svg.chart(shapes, HEIGHT, title)}{labels}</div>{axis}</div>'
    )


def _table(told: Row) -> str:
    rows = [_line(row, _is(row, told["chosen"])) for row in told["tried"]]
    return table(["strength", "passes", "general", "target"], rows, numeric=(1, 2, 3))


def _line(row: Row, chosen: bool) -> list[object]:
    name = f"{row['strength']:g}" + ("" if row["method"] == "strength" else f", {row['method']}")
    fitted = soft(f"fitted {signed(-row['drop'])}")
    general = Html(f"{esc(signed(-row['drop_seen']))}<br>{fitted}")
    kept = soft(f"keeps {100 * row['kept']:.0f} %")
    target = Html(f"{esc(signed(row['gain_seen'], 1))}<br>{kept}")
    return [Html(f"<b>{esc(name)} ←</b>") if chosen else name, f"{100 * row['probability']:.0f} %", general, target]


def _footnote(told: Row) -> str:
    sizes = {side: sum(told["items"][side].values()) for side in ("dev", "decision")}
    text = (
        f"Dots are what {plural(sizes['dev'], 'item')} set apart showed, lines a fit through no change at all; the number is the strength; left of the dashed line "
        f"more than the margin is lost. The verdict rests on the other {plural(sizes['decision'], 'item')}, which had no part in the choice, at attempt {told['attempt']}."
    )
    return f'<p class="soft">{esc(text)}</p>' + "".join(f'<p class="soft">{esc(note)}</p>' for note in told["notes"])


def _proposal(told: Row) -> str:
    changes = [Change(**change) for change in told["changes"]]
    if not changes:
        return ""
    why = "".join(f"<li>{esc(change.why)}: <code>{esc(change.flag)}</code></li>" for change in changes)
    return f"<h3>The next training</h3><ul>{why}</ul><pre>{esc(diff(changes))}</pre>"
