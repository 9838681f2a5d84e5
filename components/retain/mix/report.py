"""The page about a mixture: what is in it, how evenly it lies, and which rows were dropped because the gate asks them."""

import itertools
from typing import TYPE_CHECKING, Any

from retain.mix.config import MixConfig
from retain.page import banner, esc, page, table

if TYPE_CHECKING:
    from retain.mix.decontaminate import Cleaning

SHOWN_DROPPED = 50
SHOWN_CHARACTERS = 1500
METHODS = {"ngram": "a run of its words", "whole": "the whole of it", "minhash": "a near copy"}


def report_page(config: MixConfig, info: dict[str, Any], cleaning: "Cleaning", strip: list[float]) -> str:
    got = info["achieved"]
    title = f"{100 * got['replay']:.2f} % replay in {got['tokens']:,} train tokens"
    asked = f"Asked: {100 * config.share:.2f} % replay"
    asked += (
        f" and {100 * config.safety_share:.2f} % safety; got {100 * got['safety']:.2f} %" if config.safety_share else ""
    )
    kind = "good" if abs(got["replay"] - config.share) <= 0.01 else "warn"
    body = [
        banner(kind, title, f"{asked}. The last row drawn is the one that comes nearest."),
        "<h2>What is in it</h2>",
        _sources(info),
    ]
    body += [
        "<h2>How evenly it lies</h2>",
        _chart(strip),
        "<p class=soft>Share of replay and safety tokens along the mixture, from its first row to its last.</p>",
    ]
    body += ["<h2>Kept apart from the gate</h2>", *_cleaning(config, cleaning)]
    return page("Mixture", "\n".join(body), summary=title)


def _sources(info: dict[str, Any]) -> str:
    whole = max(info["achieved"]["tokens"], 1)
    rows = [
        (
            s["part"],
            s["source"],
            f"{s['rows']:,}",
            f"{s['tokens']:,}",
            f"{100 * s['tokens'] / whole:.2f} %",
            f"{s['repeats']:,}",
        )
        for s in info["sources"]
    ]
    return table(["part", "source", "rows", "tokens", "share", "repeats"], rows, numeric=(2, 3, 4, 5))


def _chart(strip: list[float]) -> str:
    width, height, top = 600, 90, max([*strip, 0.01]) * 1.25
    step = width / max(len(strip), 1)
    bars = "".join(
        f'<rect x="{40 + i * step:.1f}" y="{height - height * v / top:.1f}" width="{max(step - 1, 0.5):.1f}" height="{height * v / top:.1f}" fill="#1f5fbf"/>'
        for i, v in enumerate(strip)
    )
    axis = f'<line x1="40" x2="{40 + width}" y1="{height}" y2="{height}" stroke="#dfe4ea"/><text x="0" y="12" font-size="11">{100 * top:.1f} %</text><text x="0" y="{height}" font-size="11">0</text>'
    return f'<svg viewBox="0 0 {width + 40} {height + 4}" role="img" aria-label="share of replay along the mixture">{bars}{axis}</svg>'


def _cleaning(config: MixConfig, cleaning: "Cleaning") -> list[str]:
    if not config.decontamination.enabled or not cleaning.items:
        reason = "switched off" if not config.decontamination.enabled else "there were no items to compare with"
        return [f'<div class="banner warn"><b>Rows were not compared with the benchmarks: {reason}</b></div>']
    facts = cleaning.facts()
    lines = [
        f"<p>{facts['rows_compared']:,} rows compared with {facts['items']:,} items of the gate; <b>{facts['dropped']:,} dropped</b>.</p>"
    ]
    if cleaning.dropped:
        counts = (
            (what, METHODS.get(name, name), f"{count:,}")
            for what, found in facts["by"].items()
            for name, count in found.items()
        )
        lines.append(table(["by", "value", "rows"], counts, numeric=(2,)))
    shown = itertools.islice(cleaning.dropped.values(), SHOWN_DROPPED)
    lines += [_pair(line) for line in shown]
    if len(cleaning.dropped) > SHOWN_DROPPED:
        lines.append(
            f"<p class=soft>{len(cleaning.dropped) - SHOWN_DROPPED:,} more in decontamination.jsonl of the mixture.</p>"
        )
    return lines


def _pair(line: dict[str, Any]) -> str:
    head = f"{line['source']}, row {line['id']} ({line['part']}) holds {line['task']} {line['doc_id']}: {METHODS[line['method']]}"
    texts = (("row", line["text"]), ("item", line["item_text"]), ("seen by", line["evidence"]))
    body = "".join(f"<p class=soft>{name}</p><pre>{esc(text[:SHOWN_CHARACTERS])}</pre>" for name, text in texts)
    return f"<details><summary>{esc(head)}</summary>{body}</details>"
