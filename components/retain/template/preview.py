"""The page a person reads before training: real rows with the supervised tokens marked, and what was cut or masked."""

import itertools
from typing import Any

from retain.artifacts import IGNORED_LABEL
from retain.chat.template import ChatTemplate, has_template
from retain.page import banner, esc, page, table
from retain.template.config import TemplateConfig
from retain.template.counts import Counts

SHOWN_TOKENS = 1200
JUDGED = {None: "", True: ", desirable", False: ", undesirable"}


class Sampler:
    """Keeps the first rows of each source and split."""

    def __init__(self, each: int) -> None:
        self._each = each
        self.kept: dict[tuple[str, str, str], list[dict[str, Any]]] = {}

    def offer(self, row: dict[str, Any]) -> None:
        group = self.kept.setdefault((row["part"], row["split"], row["source"]), [])
        if len(group) < self._each:
            group.append(row)


def preview_page(
    tokenizer: Any, template: ChatTemplate, config: TemplateConfig, counts: Counts, sampler: Sampler, facts: dict[str, str]
) -> str:  # fmt: skip
    supervised, tokens = counts.total("supervised"), counts.total("tokens")
    title = (
        f"{counts.total('rows'):,} rows, {tokens:,} tokens, loss on {100 * supervised / max(tokens, 1):.1f} % of them"
    )
    body = [
        banner(
            "good" if supervised else "bad",
            title,
            "Green text carries loss: the model learns to write it. The rest is only read.",
        ),
        *_warnings(tokenizer, template, config, counts),
        "<h2>Rows and tokens</h2>",
        table(["part", "split", "rows", "tokens", "with loss", "share"], _groups(counts), numeric=(2, 3, 4, 5)),
        "<h2>Rows as the model sees them</h2>",
        *itertools.chain.from_iterable(
            _samples(tokenizer, group, rows) for group, rows in sorted(sampler.kept.items())
        ),
        "<h2>Lineage</h2>",
        table(["what", "digest"], [(name.replace("_", " "), value) for name, value in facts.items()]),
    ]
    return page("Template preview", "\n".join(body), summary=title)


def _warnings(tokenizer: Any, template: ChatTemplate, config: TemplateConfig, counts: Counts) -> list[str]:
    found = []
    if has_template(tokenizer) and not template.end_of_turn:
        found.append(
            (
                "The template writes no end-of-turn token",
                "A model trained on it does not learn to stop. Use the model's own instruct template.",
            )
        )
    if counts.rewritten:
        verb = "carry no loss" if config.rewritten_turns == "mask" else "carry loss on what is left of them"
        found.append(
            (
                f"{counts.rewritten:,} assistant turns are rewritten by the template",
                f"It strips earlier thoughts; such turns {verb} (template.rewritten_turns).",
            )
        )
    if counts.long_rows:
        verb = "were cut" if config.long_rows == "truncate" else "were left out"
        longest = max(tokens for _, tokens in counts.long_rows)
        found.append(
            (
                f"{len(counts.long_rows):,} rows longer than the limit {verb}",
                f"Limit {config.max_seq_length:,} tokens, longest row {longest:,} (template.max_seq_length).",
            )
        )
    return [f'<div class="banner warn"><b>{esc(head)}</b><p>{esc(text)}</p></div>' for head, text in found]


def _groups(counts: Counts) -> list[list[object]]:
    places = sorted({(part, split) for part, split, _ in counts.groups})
    rows: list[list[object]] = []
    for place in places:
        count = {what: counts.groups[(*place, what)] for what in ("rows", "tokens", "supervised")}
        share = f"{100 * count['supervised'] / max(count['tokens'], 1):.1f} %"
        rows.append([*place, *(f"{n:,}" for n in count.values()), share])
    return rows


def _target_first(group: tuple[tuple[str, str, str], Any]) -> tuple[bool, tuple[str, str, str]]:
    return group[0][0] != "target", group[0]


def _samples(tokenizer: Any, group: tuple[str, str, str], rows: list[dict[str, Any]]) -> list[str]:
    part, split, source = group
    shown = [f"<h3>{esc(source)} <span class=soft>{esc(part)}, {esc(split)}</span></h3>"]
    for row in rows:
        head = f"{row['id']}: {len(row['input_ids']):,} tokens, {row['n_supervised']:,} with loss, weight {row['weight']:g}{JUDGED[row.get('desirable')]}"
        shown.append(f"<p class=soft>{esc(head)}</p><pre>{highlighted(tokenizer, row)}</pre>")
        if row.get("rejected_input_ids"):
            other = {"input_ids": row["rejected_input_ids"], "labels": row["rejected_labels"]}
            shown.append(f"<p class=soft>rejected:</p><pre>{highlighted(tokenizer, other)}</pre>")
    return shown


def highlighted(tokenizer: Any, row: dict[str, Any]) -> str:
    """The row's text as HTML with supervised tokens in ``<mark>``; long rows are cut after SHOWN_TOKENS tokens."""
    ids, labels = row["input_ids"], row["labels"]
    if len(labels) != len(ids):  # a class index, or the target of an encoder-decoder
        answer = f"class {labels[0]}" if len(labels) == 1 else tokenizer.decode(labels)
        return f"{esc(tokenizer.decode(ids[:SHOWN_TOKENS]))}\n<mark>{esc(answer)}</mark>"
    pairs = list(zip(ids, labels, strict=True))[:SHOWN_TOKENS]
    parts = []
    for ignored, run in itertools.groupby(pairs, key=lambda pair: pair[1] == IGNORED_LABEL):
        text = esc(tokenizer.decode([token for token, _ in run]))
        parts.append(text if ignored else f"<mark>{text}</mark>")
    return "".join(parts) + ("…" if len(ids) > SHOWN_TOKENS else "")
