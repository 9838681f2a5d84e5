"""How it was trained: what the losses did, on the task and on general text, with the settings and the speed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from retain.page import esc, listed, table
from retain.report import svg
from retain.report.material import Material
from retain.report.words import signed

CSS = """
.pair{display:grid;grid-template-columns:1fr 1fr;gap:28px}.pair>*{min-width:0}@media (max-width:720px){.pair{grid-template-columns:1fr;gap:8px}}
"""
HEIGHT, MOST_POINTS, SMOOTHING = 190, 400, 0.9
LEAST_NATS = 0.1  # shown: smaller stretches would make a rise of nothing look like a cliff
Curve = Sequence[Sequence[float]]


def training(material: Material) -> str:
    """Section: the two losses that decide early stopping, and the facts of the run."""
    history = material.history
    if not history:
        return ""
    losses, card = history["losses"], history["adapter"]
    best = float(history["summary"].get("best_step", 0))
    charts = [_learning(losses, best, card.get("config", {}).get("objective", "sft")), _retention(losses, best)]
    return (
        f"<h2>Training</h2>{_sentence(history)}<div class='pair'>{''.join(c for c in charts if c)}</div>"
        + listed(f"Warning: {text}" for text in card.get("warnings", ()))
        + _datasets(losses.get("by_dataset") or {})
        + _facts(history)
    )


def _sentence(history: Mapping[str, Any]) -> str:
    facts, stopped = history["summary"], history["adapter"].get("stopped", "")
    text = f"{facts['steps']:,.0f} of {facts['planned_steps']:,.0f} steps; the weights are those of step {facts['best_step']:,.0f}."
    return f"<p>{esc(text + (f' It stopped early: {stopped}.' if stopped else ''))}</p>"


def _datasets(curves: Mapping[str, Curve]) -> str:
    """Validation losses of the single datasets, where the target rows come from several."""
    rows = [(name, f"{curve[0][1]:.3f}", f"{curve[-1][1]:.3f}") for name, curve in curves.items()]
    return table(["dataset", "loss of the base, nats", "at the end, nats"], rows, numeric=(1, 2)) if rows else ""


def _learning(losses: Mapping[str, Curve], best: float, objective: str) -> str:
    train, target = losses.get("train") or [], losses.get("target_validation") or []
    if not train and not target:
        return ""
    curves = [(train, "pale", 1.0), (_smooth(train), "blue", 2.0), (target, "good", 2.0)]
    names = [("var(--blue)", "train (smoothed)"), ("var(--good)", "target validation")]
    return _figure(
        "Loss on the task" if objective == "sft" else f"Loss on the task ({objective}, nats a row)", curves, names, best
    )


def _retention(losses: Mapping[str, Curve], best: float) -> str:
    """The loss on general rows; its level at step 0 is the base's."""
    curve = losses.get("retention") or []
    if not curve:
        return ""
    base, last = curve[0][1], curve[-1][1]
    names = [("#c98a00", "general rows"), ("var(--soft)", f"level of the base, {base:.3f}")]
    title = f"Loss on general text: {signed(last - base, 3)} nats"
    return _figure(title, [(curve, "warn", 2.0)], names, best, level=base)


def _figure(title: str, curves: Sequence[tuple[Curve, str, float]], names: Sequence[tuple[str, str]], best: float, level: float = math.nan) -> str:  # fmt: skip
    points = [p for curve, _, _ in curves for p in curve if math.isfinite(p[1])]
    if not points:
        return ""
    x, y = _scales(points, level)
    shapes = [svg.line(0, y.at(v), svg.WIDTH, y.at(v), "grid") for v in svg.ticks(y.high, y.low, 5)]
    if x.holds(best):
        shapes.append(svg.line(x.at(best), 0, x.at(best), HEIGHT, "grid", 2))
    if math.isfinite(level):
        shapes.append(svg.line(0, y.at(level), svg.WIDTH, y.at(level), "soft", 2))
    for curve, kind, width in curves:
        drawn = [(x.at(step), y.at(value)) for step, value in _thinned(curve) if math.isfinite(value)]
        shapes += [svg.curve(drawn, kind, width)]
        shapes += [svg.dot(a, b, 6, kind) for a, b in drawn] if len(drawn) <= 12 else []
    return f"<div><h3>{esc(title)}</h3>{svg.key(names)}{_framed(shapes, x, y, title)}</div>"


def _framed(shapes: Sequence[str], x: svg.Scale, y: svg.Scale, title: str) -> str:
    marks = "".join(f'<span style="top:{100 * y.at(v) / HEIGHT:.1f}%">{text}</span>' for v, text in svg.ticks_text(svg.ticks(y.high, y.low, 5)))  # fmt: skip
    steps = svg.axis(x, ((v, f"{v:g}" if v else "step 0") for v in svg.ticks(x.low, x.high, 5)))
    return f'<div class="plot"><div class="ys" aria-hidden="true">{marks}</div>{svg.chart(shapes, HEIGHT, f"{title}, nats per token")}{steps}</div>'  # fmt: skip


def _scales(points: Sequence[Sequence[float]], level: float) -> tuple[svg.Scale, svg.Scale]:
    """y points down: its low end is the highest loss."""
    values = [p[1] for p in points] + ([level] if math.isfinite(level) else [])
    room = max(0.08 * (max(values) - min(values)), (LEAST_NATS - max(values) + min(values)) / 2)
    steps = svg.Scale(0, max(max(p[0] for p in points), 1))
    return steps, svg.Scale(max(values) + room, max(min(values) - room, 0.0), HEIGHT)


def _smooth(curve: Curve) -> Curve:
    """Exponential average, as the progress bar shows it."""
    shown: list[list[float]] = []
    for step, value in curve:
        before = shown[-1][1] if shown else value
        shown.append([step, SMOOTHING * before + (1 - SMOOTHING) * value])
    return shown


def _thinned(curve: Curve) -> Curve:
    return curve if len(curve) <= MOST_POINTS else curve[:: -(-len(curve) // MOST_POINTS)]


def _facts(history: Mapping[str, Any]) -> str:
    facts, card = history["summary"], history["adapter"]
    config, speed = card.get("config", {}), facts["tokens"] / max(facts["seconds"], 1e-9)
    lora = config.get("lora", {}) if card.get("method") in {"lora", "qlora"} else {}
    rows = [
        ("method", card.get("method", "")),
        *(((("rank, alpha"), f"{lora['r']}, {lora['alpha']:g}"), ("modules", lora["target_modules"])) if lora else ()),
        ("peak rate", _rate(config)),
        ("rows a step", config.get("batch_rows", "")),
        ("trained parameters", f"{facts['trainable_parameters']:,.0f}"),
        ("speed", f"{speed:,.0f} tokens/s ({facts['tokens']:,.0f} tokens in {_time(facts['seconds'])})"),
        ("versions", ", ".join(f"{name} {version}" for name, version in card.get("versions", {}).items())),
    ]
    return table(["setting", "value"], [row for row in rows if row[1] != ""])


def _rate(config: Mapping[str, Any]) -> str:
    from retain.train.config import METHOD_RATES, known_rates

    value, method = config.get("learning_rate", ""), str(config.get("method"))
    if value in ("auto", 0) and method in METHOD_RATES:
        return f"{known_rates(method, config.get('objective', 'sft'))[0]:g} (the method's own)"
    return f"{value:g}" if value else ""


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
