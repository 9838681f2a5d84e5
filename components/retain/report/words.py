"""Numbers and names as a person reads them; the same in every part of the report."""

from collections.abc import Mapping
from typing import Any

from retain.page import Html, esc

MINUS = "\N{MINUS SIGN}"


def signed(value: float, digits: int = 2) -> str:
    """With its sign, also a plus; a rounded nothing has none."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text.replace("-", MINUS)


def span(low: float, high: float, digits: int = 2) -> str:
    return f"{signed(low, digits)} … {signed(high, digits)}"


def score(value: float, row: Mapping[str, Any]) -> str:
    """A score of a benchmark's row: in percent where both sides lie in 0 to 1, else as it is."""
    if 0 <= row["base"] <= 1 and 0 <= row["tuned"] <= 1:
        return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"
    return f"{value:.4g}".replace("-", MINUS)


def change(row: Mapping[str, Any]) -> tuple[float, float, float]:
    """(change, low, high) in points, where up is better: the gate's own rows speak of drops."""
    return -row["drop_points"], -row["high"], -row["low"]


def plural(count: float, noun: str) -> str:
    return f"{count:,.0f} {noun}" + ("" if count == 1 else "s")


def clip(text: object, characters: int) -> str:
    """Long text cut at its end, with a mark."""
    whole = str(text)
    return whole if len(whole) <= characters else whole[:characters].rstrip() + " …"


def short(digest: object) -> Html:
    """The first twelve digits of a digest; the whole of it rests under the mouse."""
    text = str(digest)
    return Html(f'<code title="{esc(clip(text, 90))}">{esc(clip(text.removeprefix("sha256:"), 90)[:12])}</code>')


def soft(text: object) -> Html:
    return Html(f'<span class="soft">{esc(text)}</span>')
