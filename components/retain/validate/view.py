"""The page of `validate`: verdict first, then what was rejected and why, what was detected, and every expectation."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from retain.page import banner, esc, page, table
from retain.validate import private
from retain.validate.config import ValidateConfig
from retain.validate.expectations import Outcome
from retain.validate.sources import Source
from retain.validate.verdict import Breach

MEANING = {
    "not_json": "not JSON", "not_utf8": "not UTF-8", "schema": "columns or types do not fit", "other_shape": "another shape than the file", "nan": "NaN or infinity",
    "unknown_role": "unknown role", "role_order": "turns do not alternate", "no_answer": "the assistant's turn is missing", "empty_answer": "empty answer",
    "empty_prompt": "empty prompt", "same_answers": "chosen and rejected are the same", "unrenderable": "the template refuses it", "too_long": "too many tokens", "duplicate": "exact duplicate",
    "leakage": "prompt is also in a test or validation split", "near_duplicate": "near duplicate", "conflicting_answers": "same prompt, other answer",
    "encoding": "damaged encoding", "control_characters": "control characters", "pii": "personal data", "secrets": "secrets",
    "truncated_answer": "answer breaks off", "refusal": "answer refuses",
}  # fmt: skip


@dataclass
class Examples:
    """A few rejected or noticed rows for the page: reason → (where, detail, masked beginning of the row)."""

    wanted: int
    found: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)

    def add(self, reason: str, where: str, detail: str, text: str) -> None:
        kept = self.found.setdefault(reason, [])
        if len(kept) < self.wanted:
            kept.append((where, private.mask(detail), private.mask(text[:4000])[:400]))


@dataclass(frozen=True)
class View:
    """What the page shows."""

    config: ValidateConfig
    sources: list[Source]
    broken: list[Breach]
    outcomes: list[Outcome]
    examples: Examples
    limit: int


def write_page(path: Path, view: View) -> None:
    """Write the page aside and rename it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(render(view), encoding="utf-8")
    partial.replace(path)


def render(view: View) -> str:
    """The whole page as HTML; personal data and secrets are masked by whoever filled the view."""
    rows, rejected = sum(s.read for s in view.sources), sum(s.rejected for s in view.sources)
    title = "Rows refused" if view.broken else "Rows accepted"
    summary = f"{rows - rejected:,} of {rows:,} rows are fit, {rejected:,} rejected"
    parts = [
        _verdict(view, title, summary),
        _sources(view),
        _reasons(view),
        _examples(view),
        _lengths(view),
        _labels(view),
        _expectations(view),
    ]
    return page(f"Validation: {title}", "\n".join(part for part in parts if part), summary=f"{title}: {summary}")


def _verdict(view: View, title: str, summary: str) -> str:
    notes = _notes(view)
    if not view.broken:
        return banner("warn" if notes else "good", title, summary) + _listed(notes)
    why = [
        f"{b.where}: {b.what}: {b.got}; allowed: {b.allowed}." + (f" {b.fix[0].upper()}{b.fix[1:]}." if b.fix else "")
        for b in view.broken
    ]
    return (
        banner("bad", title, summary)
        + "<h2>Why</h2>"
        + _listed(why)
        + ("<h2>Also</h2>" + _listed(notes) if notes else "")
    )


def _listed(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{esc(line)}</li>' for line in lines)}</ul>" if lines else ""


def _notes(view: View) -> list[str]:
    """What a person should know though it stops nothing."""
    notes = []
    tests = sum(s.kept for s in view.sources if s.spec.part == "target" and s.spec.split == "test")
    if 0 < tests < view.config.min_test_rows:
        notes.append(
            f"Only {tests} target test rows: a gain is hard to see with fewer than {view.config.min_test_rows} (min_test_rows)."
        )
    for source in view.sources:
        if source.returns:
            notes.append(f"{source.label}: CR LF became LF in {source.returns:,} rows.")
        if source.labels and len(source.labels) > 1 and max(source.labels.values()) > 0.8 * source.kept:
            notes.append(f"{source.label}: one class has {max(source.labels.values()) / source.kept:.0%} of the rows.")
    return notes


def _sources(view: View) -> str:
    head = ["source", "rows", "fit", "rejected", "format", "serves as", "train / validation / test", "columns"]
    lines = [
        (
            s.name, f"{s.read:,}", f"{s.kept:,}", f"{s.rejected:,}", f"{s.format or 'unreadable'} ({'detected' if s.spec.format == 'auto' else 'as set'})", f"{s.spec.part}, {s.spec.split}",
            " / ".join(f"{s.splits[split]:,}" for split in ("train", "validation", "test")), ", ".join(s.columns),
        )
        for s in view.sources
    ]  # fmt: skip
    return "<h2>What was detected</h2>" + table(head, lines, numeric=(1, 2, 3))


def _reasons(view: View) -> str:
    rejected, warned = _total(view, "reasons"), _total(view, "warnings")
    if not rejected and not warned:
        return "<h2>Reasons</h2><p>No row was rejected, and nothing was noticed.</p>"
    order = sorted({*rejected, *warned}, key=lambda reason: (-rejected[reason], -warned[reason], reason))
    lines = [(MEANING[reason], f"{rejected[reason]:,}", f"{warned[reason]:,}", reason) for reason in order]
    note = '<p class="soft">A row may have several reasons. Noticed rows stay in the dataset.</p>'
    return "<h2>Reasons</h2>" + table(["reason", "rejected", "noticed", "setting"], lines, numeric=(1, 2)) + note


def _total(view: View, name: str) -> Counter[str]:
    total: Counter[str] = Counter()
    for source in view.sources:
        total.update(getattr(source, name))
    return total


def _examples(view: View) -> str:
    if not view.examples.found:
        return ""
    blocks = []
    for reason, rows in view.examples.found.items():
        shown = "".join(
            f'<p class="soft"><code>{esc(where)}</code> {esc(detail)}</p><pre>{esc(text)}</pre>'
            for where, detail, text in rows
        )
        blocks.append(
            f"<details><summary>{esc(MEANING[reason])} <span class=soft>({esc(reason)})</span></summary>{shown}</details>"
        )
    return "<h2>Examples</h2><p class=soft>Personal data and secrets are masked.</p>" + "".join(blocks)


def _lengths(view: View) -> str:
    lines = [
        (s.label, f"{sum(n * k for n, k in s.tokens.items()):,}", *(f"{_quantile(s, q):,}" for q in (0.5, 0.95, 1.0)))
        for s in view.sources
        if s.kept
    ]
    limit = f"{view.limit:,} tokens" if view.limit < 1 << 30 else "none known"
    return f"<h2>Length in tokens</h2><p class=soft>Limit: {limit}.</p>" + table(
        ["source", "all rows", "median", "95 %", "longest"], lines, numeric=(1, 2, 3, 4)
    )


def _quantile(source: Source, share: float) -> int:
    """The length that ``share`` of the kept rows do not exceed."""
    seen = 0
    for length in sorted(source.tokens):
        seen += source.tokens[length]
        if seen >= share * source.kept:
            return length
    return 0


def _labels(view: View) -> str:
    lines = [
        (
            s.label,
            ", ".join(f"{label}: {n:,}" for label, n in s.labels.most_common(20))
            + (" …" if len(s.labels) > 20 else ""),
        )
        for s in view.sources
        if s.labels
    ]
    return "<h2>Classes</h2>" + table(["source", "rows by class"], lines) if lines else ""


def _expectations(view: View) -> str:
    lines = [
        (MEANING[o.reason], f"{o.column} ≤ {o.limit:,}" if o.limit < 1 << 30 else o.column, f"{o.unexpected:,}", f"{o.share:.2%}", {"reject": "rejected", "warn": "noticed"}[o.act])
        for o in sorted(view.outcomes, key=lambda o: -o.unexpected)
    ]  # fmt: skip
    text = (
        "<p class=soft>Great Expectations on a table of numbers, one row a sample; the text itself never enters it.</p>"
    )
    return f"<h2>Expectations</h2><details><summary>{len(lines)} expectations, {sum(o.unexpected > 0 for o in view.outcomes)} not met by every row</summary>{text}{table(['check', 'expectation', 'rows that miss it', 'share', 'these rows are'], lines, numeric=(2, 3))}</details>"
