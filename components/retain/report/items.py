"""The items themselves: what was right and is wrong now, with both answers; and the target's rows before and after."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from retain.page import Html, details, esc
from retain.report.material import Material
from retain.report.questions import Key, questions
from retain.report.words import clip, plural, score, soft

CSS = """
.item{border:1px solid var(--line);border-radius:6px;padding:8px 12px;margin:8px 0}.item dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 12px;margin:.2em 0;font-size:14px}
.item dt{color:var(--soft)}.item dd{margin:0;min-width:0;white-space:pre-wrap;overflow-wrap:anywhere}.item .asked{white-space:pre-wrap;overflow-wrap:anywhere;margin:0 0 .4em}.item .id{font-size:12px}
.right::before{content:"\\2713\\a0";color:var(--good);font-weight:700}.wrong::before{content:"\\2717\\a0";color:var(--bad);font-weight:700}
"""
FLIPS, OF_A_TASK, AT_LEAST = 60, 8, 1  # shown: altogether, of one benchmark
LEARNED, UNLEARNED = 4, 3
ASKED, ANSWERED = 700, 400  # characters


@dataclass(frozen=True)
class Item:
    """One item on both sides. gain: how much better the tuned answer is, in the metric's unit; p_gain: the same of p(gold)."""

    task: str
    doc_id: str
    gold: str
    base: str
    tuned: str
    before: float
    after: float
    gain: float
    p_gain: float

    @property
    def key(self) -> Key:
        return self.task, self.doc_id


def flips(material: Material) -> str:
    """Section: the target's rows, then the flipped items of every benchmark, worst benchmark first."""
    items = _joined(material)
    if not items:
        return ""
    target = material.verdict.get("target", {}).get("name", "")
    shown, examples = _lost(items, target), _examples(items.get(target, []))
    wanted = {item.key for group in (*shown.values(), *examples.values()) for item in group}
    asked, note = questions(material, wanted)
    parts = [_target_part(examples, asked), _lost_part(items, shown, asked)]
    body = "".join(part for part in parts if part)
    return body + (f'<p class="soft">{esc(note)}</p>' if note else "")


def _joined(material: Material) -> dict[str, list[Item]]:
    """All items by task, of each task's primary metric; empty without both scorings."""
    if material.base is None or material.tuned is None:
        return {}
    tasks = material.tuned[1].get("tasks", {})
    both = {name: [_of_task(side[0], name, str(info["metric"])) for side in (material.base, material.tuned)] for name, info in tasks.items()}  # fmt: skip
    return {name: list(_items(name, *sides)) for name, sides in both.items()}


def _of_task(table: pa.Table, task: str, metric: str) -> dict[str, Mapping[str, object]]:
    chosen = table.filter(pc.and_(pc.equal(table["task"], task), pc.equal(table["metric"], metric)))
    columns = ["doc_id", "gold", "output", "value", "p_gold", "higher_is_better"]
    return {row["doc_id"]: row for row in chosen.select(columns).to_pylist()}


def _items(task: str, base: Mapping[str, Mapping], tuned: Mapping[str, Mapping]) -> Iterable[Item]:
    for doc_id, one in base.items():
        two = tuned.get(doc_id)
        if two is None:
            continue
        sign = 1.0 if one["higher_is_better"] else -1.0
        moved = two["p_gold"] - one["p_gold"]
        yield Item(
            task, doc_id, one["gold"] or "", one["output"] or "", two["output"] or "", one["value"], two["value"],
            sign * (two["value"] - one["value"]), moved if moved == moved else 0.0,
        )  # fmt: skip


def _lost(items: Mapping[str, list[Item]], target: str) -> dict[str, list[Item]]:
    """What to show of each benchmark: the clearest losses first."""
    general = {task: [item for item in group if item.gain < 0] for task, group in items.items() if task != target}
    each = max(AT_LEAST, min(OF_A_TASK, FLIPS // max(len(general), 1)))
    worst = sorted(general, key=lambda task: (sum(i.gain for i in items[task]) / max(len(items[task]), 1), task))
    ordered = {task: sorted(general[task], key=lambda i: (i.gain, i.p_gain, i.doc_id)) for task in worst[:FLIPS]}
    return {task: group[:each] for task, group in ordered.items() if group}


def _examples(rows: list[Item]) -> dict[str, list[Item]]:
    lost = [item for item in rows if item.gain < 0]
    still = [item for item in rows if item.gain == 0 and item.after <= 0 and item.gold]
    best = sorted((item for item in rows if item.gain > 0), key=lambda item: -item.gain)
    return {"learned": best[:LEARNED], "lost": lost[:UNLEARNED], "still wrong": still[:UNLEARNED]}


def _target_part(examples: Mapping[str, list[Item]], asked: Mapping[Key, str]) -> str:
    groups = [(name, group) for name, group in examples.items() if group]
    if not groups:
        return ""
    parts = [
        details(Html(f"{esc(name.capitalize())} {soft(f'({len(group)} shown)')}"), "".join(_card(i, asked) for i in group), opened=name == "learned")
        for name, group in groups
    ]  # fmt: skip
    return f"<h2>The target's rows, before and after</h2>{''.join(parts)}"


def _lost_part(items: Mapping[str, list[Item]], shown: Mapping[str, list[Item]], asked: Mapping[Key, str]) -> str:  # fmt: skip
    if not shown:
        return "<h2>Items that flipped</h2><p>No item of a general benchmark got worse.</p>"
    parts = []
    for task, group in shown.items():
        lost, won = (sum(1 for i in items[task] if sign * i.gain > 0) for sign in (-1, 1))
        said = f"{lost:,} worse, {won:,} better of {plural(len(items[task]), 'item')}"
        cut = f'<p class="soft">The {len(group)} clearest of {lost:,}.</p>' if lost > len(group) else ""
        parts.append(details(Html(f"<b>{esc(task)}</b> {soft(said)}"), cut + "".join(_card(i, asked) for i in group)))
    lead = "Right before, wrong now. One such list tells more than any average: is it knowledge that went, or only the form of the answer?"
    return f"<h2>Items that flipped</h2><p>{lead}</p>{''.join(parts)}"


def _card(item: Item, asked: Mapping[Key, str]) -> str:
    question = asked.get(item.key, "")
    lines = [("expected", item.gold, ""), ("baseline", item.base, _mark(item.before)), ("tuned", item.tuned, _mark(item.after))]  # fmt: skip
    told = "".join(_answer(name, text, mark) for name, text, mark in lines if text or mark)
    unit = "" if item.before in (0, 1) and item.after in (0, 1) else f" {_value(item.before)} → {_value(item.after)}"
    text = f'<p class="asked">{esc(clip(question, ASKED))}</p>' if question else ""
    return f'<div class="item">{text}<dl>{told}</dl><div class="soft id">{esc(item.task)} {esc(clip(item.doc_id, 80))}{esc(unit)}</div></div>'  # fmt: skip


def _answer(name: str, text: str, mark: str) -> str:
    said = esc(clip(text.strip(), ANSWERED)) or '<span class="soft">(nothing)</span>'
    return f'<dt>{name}</dt><dd class="{mark}">{said}</dd>'


def _mark(value: float) -> str:
    return {1.0: "right", 0.0: "wrong"}.get(value, "part")


def _value(value: float) -> str:
    return score(value, {"base": value, "tuned": value}) if 0 <= value <= 1 else f"{value:.4g}"
