"""From the kept rows of the methods' evidence to a section of pipelines/EVIDENCE.md."""

import json
import platform
import statistics
from pathlib import Path
from typing import Any

TITLE = "## What each method learns and forgets"
MIB = 2**20
HEAD = ("method", "target accuracy", "macro-F1", "forgetting, nats", "ARC-Easy", "SciQ", "trained weights", "memory, MiB", "tokens/s")  # fmt: skip


def read(results: Path) -> list[dict[str, Any]]:
    """The whole rows of a file of JSON lines; a line that a kill has torn is none."""
    if not results.is_file():
        return []
    found = []
    for line in results.read_bytes().split(b"\n"):
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def section(rows: list[dict[str, Any]]) -> str:
    """The section as Markdown: forgetting is the rise of the loss above the base's, benchmarks are changes in points."""
    base = next(row for row in rows if row["name"] == "base")
    names = list(dict.fromkeys(row["name"] for row in rows if row["name"] != "base"))
    lines = [_line(name, [row for row in rows if row["name"] == name], base) for name in names]
    own = f"| base | {base['target_accuracy']:.1f} | {base['target_macro_f1']:.1f} | ({base['wikitext_nats']:.3f}) | ({base['arc_easy']:.1f}) | ({base['sciq']:.1f}) | | | |"
    table = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD), own, *lines]
    return "\n\n".join([TITLE, _words(rows), "\n".join(table)]) + "\n"


def _words(rows: list[dict[str, Any]]) -> str:
    commits = sorted({row["commit"] for row in rows if row["name"] != "base"})
    threads = sorted({row["threads"] for row in rows if "threads" in row})
    return (
        "SmolLM2-135M-Instruct on Financial PhraseBank (384 rows, one pass, 48 steps of 8 rows, the last step's weights, no early stopping); "
        "240 test rows by the likelihood of the three labels; forgetting is the rise of the loss on 10 passages of WikiText-2 (about 3 500 tokens); "
        f"ARC-Easy 240 and SciQ 160 items, changes in points (one item is 0.4 and 0.6 points, a change of 3 points is noise). Memory is the peak of the process above its imports; tokens/s are those of the training alone (threads: {', '.join(map(str, threads)) or 'not noted'}), "
        "and no quiet figures (–: spoilt by other work): methods beside each other, on a shared machine. "
        f"More than one seed: mean ± half the range, number of seeds in brackets. {platform.processor() or platform.machine()} CPU, commit {', '.join(commits)}, `make evidence-methods`."
    )


def _line(name: str, rows: list[dict[str, Any]], base: dict[str, Any]) -> str:
    done = [row for row in rows if "failed" not in row]
    if not done:
        return f"| {name} | refused: {rows[-1]['failed'].replace('|', '/')} |" + " |" * (len(HEAD) - 2)
    seeds = f" ({len(done)})" if len(done) > 1 else ""
    cells = [
        f"{name}{seeds}", _spread([row["target_accuracy"] for row in done], ".1f"), _spread([row["target_macro_f1"] for row in done], ".1f"),
        _spread([row["wikitext_nats"] - base["wikitext_nats"] for row in done], "+.3f"), _spread([row["arc_easy"] - base["arc_easy"] for row in done], "+.1f"),
        _spread([row["sciq"] - base["sciq"] for row in done], "+.1f"), f"{done[0]['trained_parameters']:,}",
        f"{max(row['peak_bytes'] for row in done) / MIB:,.0f}", _speed(done),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _speed(rows: list[dict[str, Any]]) -> str:
    """null in a kept row: its time was spoilt by other work, what it learnt was not."""
    seen = [row["tokens_per_second"] for row in rows if row["tokens_per_second"]]
    return f"{statistics.mean(seen):,.0f}" if seen else "–"


def _spread(values: list[float], form: str) -> str:
    middle = format(statistics.mean(values), form)
    return middle if len(values) == 1 else f"{middle} ± {(max(values) - min(values)) / 2:{form.lstrip('+')}}"


def put(page: str, new: str) -> str:
    """``page`` with the section in place of the one of the same title, or before the open questions at the end."""
    before, found, rest = page.partition(TITLE)
    if found:
        after = rest.partition("\n## ")
        return f"{before}{new}" + (f"\n## {after[2]}" if after[1] else "")
    before, found, rest = page.partition("## Open\n")
    return f"{before}{new}\n{found}{rest}" if found else f"{page.rstrip()}\n\n{new}"
