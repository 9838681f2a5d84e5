"""What it was trained on: what was refused, what was mixed, what was kept from the gate's items, what carries loss."""

from collections.abc import Mapping
from typing import Any

from retain.page import Html, details, esc, table
from retain.report.excerpts import Excerpt
from retain.report.material import Material, Refused
from retain.report.words import clip, plural, soft

CSS = """
.shares{display:flex;height:22px;border-radius:4px;overflow:hidden;margin:.5em 0}.shares i{display:block;min-width:2px}
.bars{font-size:14px}.bars div{display:grid;grid-template-columns:minmax(150px,32%) 1fr 3.5em;gap:0 12px;align-items:center}.bars i{display:block;height:12px;background:#97a1ad;border-radius:2px;min-width:2px}
.bars b{font-weight:400;text-align:right;font-variant-numeric:tabular-nums}@media (max-width:480px){.bars div{grid-template-columns:1fr auto}.bars .bar{grid-area:2/1/3/3;margin-bottom:5px}}
"""
COLOURS = {"target": "#1f5fbf", "replay": "#c98a00", "safety": "#7a4fb5"}
REASONS, SOURCES, EXCERPTS, CHARACTERS = 40, 40, 8, 1500


def data(material: Material) -> str:
    """Section: rows refused, mixture, decontamination, mask."""
    parts = [_rejects(material), _mixture(material.mixture), _mask(material)]
    body = "".join(part for part in parts if part)
    return f"<h2>Data</h2>{body}" if body else ""


def _rejects(material: Material) -> str:
    if material.folders.there("rejects") is None:
        return ""
    if not material.refused:
        return "<h3>Rows refused: none</h3>"
    from retain.validate.view import MEANING

    by_reason: dict[str, int] = {}
    for entry in material.refused:
        by_reason[entry.reason] = by_reason.get(entry.reason, 0) + entry.rows
    most = max(by_reason.values())
    bars = "".join(_bar(MEANING.get(reason, reason), rows, most) for reason, rows in sorted(by_reason.items(), key=lambda x: -x[1])[:REASONS])  # fmt: skip
    lines = [(entry.source, MEANING.get(entry.reason, entry.reason), f"{entry.rows:,}", _numbers(entry)) for entry in material.refused[:REASONS]]  # fmt: skip
    where = details("Where: rows by source", table(["source", "reason", "rows", "row numbers"], lines, numeric=(2,)))
    note = soft("(a row may have several reasons; the rows themselves are in the artifact rejects, never here)")
    return f'<h3>Rows refused: {material.refused_rows:,}</h3><div class="bars">{bars}</div><p>{note}</p>{where}'


def _bar(name: str, rows: int, most: int) -> str:
    return f'<div><span>{esc(name)}</span><span class="bar"><i style="width:{100 * rows / most:.1f}%"></i></span><b>{rows:,}</b></div>'  # fmt: skip


def _numbers(entry: Refused) -> str:
    return ", ".join(str(n) for n in entry.numbers) + (" …" if entry.rows > len(entry.numbers) else "")


def _mixture(info: Mapping[str, Any]) -> str:
    if not info:
        return ""
    whole = max(info["achieved"]["tokens"], 1)
    tokens = {part: sum(s["tokens"] for s in info["sources"] if s["part"] == part) for part in COLOURS}
    strips = "".join(f'<i style="width:{100 * n / whole:.2f}%;background:{COLOURS[part]}"></i>' for part, n in tokens.items() if n)  # fmt: skip
    key = "".join(f'<span><i style="border-color:{COLOURS[part]}"></i>{part} {100 * n / whole:.2f} %</span>' for part, n in tokens.items() if n)  # fmt: skip
    asked = soft(f"(asked: {100 * info['asked']['replay']:.2f} %)")
    rows = table(["source", "rows", "tokens", "repeats"], (_source(s, whole) for s in info["sources"][:SOURCES]), numeric=(1, 2, 3))  # fmt: skip
    return (
        f"<h3>Mixture: {whole:,} tokens, {100 * info['achieved']['replay']:.2f} % of them replay {asked}</h3>"
        f'<div class="shares">{strips}</div><p class="key">{key}</p>{rows}<p>{esc(_kept_apart(info["decontamination"]))}</p>'
    )


def _source(entry: Mapping[str, Any], whole: int) -> list[object]:
    name = Html(f"{esc(clip(entry['source'], 80))}<br>{soft(entry['part'])}")
    share = soft(f"{100 * entry['tokens'] / whole:.2f} %")
    return [name, f"{entry['rows']:,}", Html(f"{entry['tokens']:,}<br>{share}"), f"{entry['repeats']:,}"]


def _kept_apart(facts: Mapping[str, Any]) -> str:
    if not facts.get("items"):
        return "The rows were not compared with the gate's items."
    dropped = facts["dropped"]
    said = f"{plural(facts['rows_compared'], 'row')} compared with {plural(facts['items'], 'item')} of the gate: {plural(dropped, 'row')} dropped"
    by = ", ".join(f"{task} {count}" for task, count in list(facts.get("by", {}).get("task", {}).items())[:20])
    return f"{said} ({by})." if dropped and by else f"{said}."


def _mask(material: Material) -> str:
    """Rows as the model sees them; what carries loss is marked."""
    if not material.excerpts.rows:
        return ""
    title = material.excerpts.title.strip()
    shown = sorted(material.excerpts.rows, key=lambda row: "target" not in row.source)[:EXCERPTS]
    lead = f'<p class="soft">{esc(title)}{". " if title else ""}Marked text carries loss: the model learns to write it. The rest is only read.</p>'
    rows = "".join(details(_heading(row), f"<pre>{_marked(row)}</pre>", opened=i == 0) for i, row in enumerate(shown))
    return f"<h3>Rows as the model sees them</h3>{lead}{rows}"


def _heading(row: Excerpt) -> Html:
    return Html(f"{esc(clip(row.source.strip(), 120))} {soft(clip(row.head.strip(), 160))}")


def _marked(row: Excerpt) -> str:
    parts: list[str] = []
    left = CHARACTERS
    for text, supervised in row.runs:
        if left <= 0:
            return "".join(parts) + "…"
        piece = esc(text[:left])
        parts.append(f"<mark>{piece}</mark>" if supervised else piece)
        left -= len(text)
    return "".join(parts)
