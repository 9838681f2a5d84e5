"""Shifts of probabilities, of the right choice and of general text: they show a small loss long before an answer flips."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from retain.page import esc, table
from retain.report import svg
from retain.report.material import Material
from retain.report.words import plural, signed, soft

REACH, BINS, HEIGHT = 0.5, 41, 44


def shifts(material: Material) -> str:
    """Section: per benchmark, how p(gold) moved item by item; empty where no task has choices."""
    baselines = material.evidence.get("baselines", ())
    moved = _moved(baselines[0]["columns"]) if baselines else {}
    if not moved:
        return ""
    order = sorted(moved, key=lambda task: (float(moved[task].mean()), task))
    limit = material.verdict["policy"].get("warn_p_gold_points", 0)
    lead = (
        "The probability of the right choice, tuned minus baseline: red to the left lost confidence, green to the right gained it. "
        f"Bars are drawn by their square root, so that a few items are seen beside many. It warns (fall above {limit:g} points) and decides nothing: a sharper model moves it too."
    )
    return f'<h2>Confidence in the right choice</h2><p class="soft">{esc(lead)}</p><div class="forest">{"".join(_row(task, moved[task]) for task in order)}{_axis()}</div>'


def general_text(material: Material) -> str:
    """Section: cross-entropy of both models and their divergence; empty where it was not measured."""
    scores = material.tuned[1] if material.tuned else {}
    found = scores.get("signals", {})
    if not found:
        why = scores.get("signals_left_out", "")
        return f'<h2>General text</h2><p class="soft">Not compared: {esc(why)}.</p>' if why else ""
    lead = (
        f"On {found['tokens']:,.0f} tokens of general rows that nobody trained on. Every token counts here, so this moves before a benchmark's answers flip. "
        f"It warns (rise above {material.verdict['policy'].get('warn_rise_nats', 0):g} nats) and decides nothing."
    )
    rows = [
        ("cross-entropy of the base", f"{found['base_cross_entropy']:.4f}"),
        ("cross-entropy of the tuned model", f"{found['tuned_cross_entropy']:.4f}"),
        ("rise", signed(found["rise"], 4)),
        ("KL divergence of the tuned model from the base", f"{found['kl']:.4f}"),
    ]
    return (
        f'<h2>General text</h2><p class="soft">{esc(lead)}</p>{table(["measure", "nats a token"], rows, numeric=(1,))}'
    )


def _moved(columns: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    found: dict[str, list[float]] = {}
    for task, one, two in zip(columns["task"], columns["p_base"], columns["p_tuned"], strict=True):
        if one is not None and two is not None:
            found.setdefault(task, []).append(two - one)
    return {task: np.array(values) for task, values in found.items()}


def _row(task: str, moved: np.ndarray) -> str:
    counts, edges = np.histogram(np.clip(moved, -REACH, REACH), bins=BINS, range=(-REACH, REACH))
    scale, tall = svg.Scale(-REACH, REACH), np.sqrt(counts / max(counts.max(), 1)) * (HEIGHT - 4)
    bars = [
        svg.block(scale.at(edges[i]) + 2, HEIGHT - tall[i], scale.at(edges[i + 1]) - 2, HEIGHT, _tone((edges[i] + edges[i + 1]) / 2))
        for i in np.flatnonzero(counts)
    ]  # fmt: skip
    points, error = 100 * moved.mean(), 196 * moved.std() / max(len(moved), 1) ** 0.5
    label = f"{task}: mean shift {signed(points)} points, plus or minus {error:.2f}"
    drawn = svg.chart([*bars, svg.line(0, HEIGHT, svg.WIDTH, HEIGHT, "soft"), svg.line(500, 0, 500, HEIGHT, "zero")], HEIGHT, label)  # fmt: skip
    tone = " bad" if points + error < 0 else " good" if points - error > 0 else ""
    return (
        f'<div class="row"><div class="name">{esc(task)}<br>{soft(plural(len(moved), "item"))}</div><div class="draw">{drawn}</div>'
        f'<div class="value{tone}"><b>{esc(signed(points))}</b><br>± {error:.2f} points</div></div>'
    )


def _tone(middle: float) -> str:
    return "soft" if abs(middle) < REACH / BINS else "bad" if middle < 0 else "good"


def _axis() -> str:
    marks = svg.axis(svg.Scale(-REACH, REACH), ((v, signed(v, 2)) for v in (-0.4, -0.2, 0.0, 0.2, 0.4)))
    return f'<div class="row axisrow"><div></div><div class="draw">{marks}</div><div></div></div>'
