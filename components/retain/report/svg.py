"""Small static charts: shapes are SVG that stretches with the page, words stay HTML, so both are readable at any width.

x runs from 0 to 1000 whatever the pixels, y is in pixels. Strokes do not scale: a line stays as thin, and a dot (a line
without length and with a cap) as round, as it was drawn. Colours are the classes of :data:`CSS`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from retain.page import esc
from retain.report.words import MINUS

WIDTH = 1000
CSS = """
.chart{display:block;width:100%;max-width:none;height:var(--h);overflow:visible}.chart *{vector-effect:non-scaling-stroke}
.chart [class^=s-]{fill:none}.s-grid{stroke:#e8ecf0}.s-zero{stroke:#1b2330;stroke-width:1.2}.s-margin{stroke:#b3261e;stroke-width:1.2;stroke-dasharray:5 4}
.s-blue{stroke:#1f5fbf}.s-good{stroke:#1a7f4b}.s-bad{stroke:#b3261e}.s-soft{stroke:#97a1ad}.s-warn{stroke:#c98a00}.s-pale{stroke:#a9c3ea}.s-ink{stroke:#1b2330}
.f-blue{fill:#1f5fbf}.f-good{fill:#1a7f4b}.f-bad{fill:#b3261e}.f-soft{fill:#97a1ad}.f-warn{fill:#c98a00}.f-ink{fill:#1b2330}.f-harm{fill:#fdf0ef}
.axis{position:relative;height:1.35em;font-size:12px;color:var(--soft);font-variant-numeric:tabular-nums}.axis span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.plot{display:grid;grid-template-columns:3.4em 1fr;margin:.3em 0}.plot .ys{position:relative;font-size:12px;color:var(--soft);font-variant-numeric:tabular-nums}
.plot .ys span{position:absolute;right:.6em;transform:translateY(-50%)}.plot .axis{grid-column:2}.key{font-size:13px;color:var(--soft)}.key span{margin-right:1em;white-space:nowrap}
.key i{display:inline-block;width:14px;height:0;border-top:3px solid;vertical-align:middle;margin-right:5px;border-radius:2px}
"""


@dataclass(frozen=True)
class Scale:
    """A stretch of values on 0 … ``size``; values outside land on its ends."""

    low: float
    high: float
    size: float = WIDTH

    def at(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.size * min(max(share, 0.0), 1.0), 1)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from low to high, at most ``most``, in steps of 1, 2 or 5 × 10ⁿ."""
    raw = max(high - low, 1e-9) / most
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw * 0.999)
    return [round(k * step, 10) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def ticks_text(values: Sequence[float]) -> list[tuple[float, str]]:
    """(value, text): all with as many digits as the finest needs."""
    digits = max((len(f"{v:g}".partition(".")[2]) for v in values), default=0)
    return [(v, f"{v:.{digits}f}".replace("-", MINUS)) for v in values]


def chart(shapes: Iterable[str], height: float, label: str) -> str:
    """Shapes in their order; ``label`` is read out, and shown where the mouse rests."""
    name = esc(label)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" preserveAspectRatio="none" style="--h:{height:g}px" '
        f'role="img" aria-label="{name}"><title>{name}</title>{"".join(shapes)}</svg>'
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str, width: float = 0) -> str:
    style = f' stroke-width="{width:g}"' if width else ""
    return f'<path class="s-{kind}"{style} d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>'


def dot(x: float, y: float, size: float, kind: str, *, square: bool = False) -> str:
    """A dot of ``size`` pixels across."""
    cap = "square" if square else "round"
    return f'<path class="s-{kind}" stroke-linecap="{cap}" stroke-width="{size:g}" d="M{x:g} {y:g}h.001"/>'


def curve(points: Sequence[tuple[float, float]], kind: str, width: float = 2) -> str:
    path = "L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path class="s-{kind}" stroke-width="{width:g}" stroke-linejoin="round" d="M{path}"/>' if points else ""


def block(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<path class="f-{kind}" d="M{x1:g} {y1:g}H{x2:g}V{y2:g}H{x1:g}Z"/>'


def diamond(low: float, middle: float, high: float, y: float, half: float, kind: str) -> str:
    """An average: as wide as its interval, ``half`` pixels up and down."""
    return f'<path class="f-{kind}" d="M{low:g} {y:g}L{middle:g} {y - half:g}L{high:g} {y:g}L{middle:g} {y + half:g}Z"/>'  # fmt: skip


def axis(scale: Scale, values: Iterable[tuple[float, str]]) -> str:
    """Words under a chart, at their places."""
    marks = "".join(_word(100 * scale.at(value) / scale.size, text) for value, text in values)
    return f'<div class="axis" aria-hidden="true">{marks}</div>'


def _word(percent: float, text: str) -> str:
    """Centred under its place, but never beyond the chart's ends."""
    shift = ";transform:none" if percent < 2 else ";transform:translateX(-100%)" if percent > 98 else ""
    return f'<span style="left:{percent:.2f}%{shift}">{esc(text)}</span>'


def key(names: Iterable[tuple[str, str]]) -> str:
    """What the colours mean: (CSS colour, name)."""
    return f'<p class="key">{"".join(f"<span><i style=border-color:{colour}></i>{esc(name)}</span>" for colour, name in names)}</p>'  # fmt: skip
