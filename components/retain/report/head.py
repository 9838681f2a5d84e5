"""The top of the report: what was decided, in one sentence; why; what could have been seen; what to do next."""

from collections.abc import Mapping, Sequence
from typing import Any

from retain.gate.summary import sentence
from retain.gate.verdict import Reason
from retain.page import Html, banner, details, esc, listed
from retain.report.advice import advice
from retain.report.material import Material
from retain.report.words import MINUS, change, plural, score, signed, span

CSS = """
.kicker{font-size:13px;color:var(--soft);margin:0}.banner p{margin:.35em 0}.banner ul{margin:.35em 0}
.tiles{display:grid;grid-template-columns:repeat(4,1fr);gap:10px;margin:14px 0}.tile{border:1px solid var(--line);border-radius:6px;padding:9px 12px;min-width:0}
.tile b{display:block;font-size:1.4rem;line-height:1.25;font-variant-numeric:tabular-nums;white-space:nowrap}.tile span{display:block;font-size:12.5px;line-height:1.4;color:var(--soft)}
@media (max-width:720px){.tiles{grid-template-columns:1fr 1fr;gap:8px}.tile{padding:7px 10px}.tile b{font-size:1.2rem}}
.next{border:1px solid var(--line);border-radius:6px;padding:4px 16px 8px;margin:14px 0}.next h3{margin-top:.6em}.next code{display:inline-block;max-width:100%}
"""
KIND = {"pass": "good", "regressed": "bad", "inconclusive": "warn", "integrity": "bad"}
MOST_WARNINGS = 2  # in the open
TARGET_CODES = {"target_not_improved", "target_worse"}
# The smallest drop that 80 % of such measurements tell from none, over the half-width of a 95 % interval.
SEEN_BY_INTERVAL = 2.49 / 1.96


def headline(verdict: Mapping[str, Any]) -> str:
    """The verdict in one sentence."""
    word, codes = verdict["verdict"], {r["code"] for r in verdict["reasons"]}
    if word == "pass":
        return "Passed, and waits for a person to approve it" if verdict["action"] == "wait" else "Passed: this model may be published"  # fmt: skip
    if word == "integrity":
        return "Closed: the two scorings cannot be compared"
    if word == "regressed":
        lost = "it lost what the base could do" if codes - TARGET_CODES - {"too_few_items"} else "it got worse at its own task"  # fmt: skip
        return f"Closed: {lost}"
    if "budget_spent" in codes:
        return "Closed: these items have given all the verdicts they may"
    if codes and codes <= TARGET_CODES | {"too_few_items"}:
        return "Closed: it did not surely learn its task"
    return "Closed: the items do not suffice to say that nothing was lost"


def summary(verdict: Mapping[str, Any]) -> str:
    """For the comment behind the doctype: lists show the first 255 bytes of the file."""
    parts = [f"{verdict['verdict'].upper()}: {headline(verdict)}"]
    if verdict.get("macro"):
        parts.append(f"general {signed(-verdict['macro']['drop_points'])} points, margin {verdict['macro']['margin_points']:g}")  # fmt: skip
    if "n" in verdict.get("target", {}):
        parts.append(f"target {signed(change(verdict['target'])[0])} points")
    return "; ".join(parts)


def top(material: Material) -> str:
    verdict = material.verdict
    parts = [
        '<p class="kicker">Regression gate: the tuned model against its baseline</p>',
        banner(KIND[verdict["verdict"]], headline(verdict), Html(_reasons(verdict))),
        _tiles(verdict),
        _seen(verdict, _left(material)),
        _notes(verdict),
        _next(material),
    ]
    return "\n".join(part for part in parts if part)


def reason_text(reason: Mapping[str, Any]) -> str:
    """A reason as a sentence; a benchmark's name keeps its first letter as it is."""
    text = sentence(Reason(**reason))
    return text if reason["benchmark"] and text.startswith(reason["benchmark"]) else text[:1].upper() + text[1:]


def _reasons(verdict: Mapping[str, Any]) -> str:
    if verdict["verdict"] == "integrity":
        return "".join(f"<pre>{esc(r['got'])}</pre>" for r in verdict["reasons"])
    texts = [reason_text(r) for r in verdict["reasons"]]
    if verdict["verdict"] == "pass" and not texts:
        texts = list(_why_passed(verdict))
    more = [f"and {plural(len(texts) - 5, 'more reason')}"] if len(texts) > 5 else []
    return listed(texts[:5] + more)


def _why_passed(verdict: Mapping[str, Any]) -> Sequence[str]:
    macro, target = verdict["macro"], verdict["target"]
    lines = [f"On average over {plural(macro['benchmarks'], 'benchmark')} a loss of {macro['margin_points']:g} points or more is excluded, and no single one fell beyond chance."]  # fmt: skip
    if "n" in target and target["rule"] != "none":
        rule = "The target surely improved" if target["rule"] == "improved" else "The target did not get worse"
        lines.append(f"{rule}: {score(target['base'], target)} → {score(target['tuned'], target)}.")
    return lines


def _tiles(verdict: Mapping[str, Any]) -> str:
    if not verdict.get("macro"):
        return ""
    macro, target = verdict["macro"], verdict["target"]
    moved, low, high = change(macro)
    tiles = []
    if "n" in target:
        gained, one, two = change(target)
        tiles.append(("Target, points", signed(gained, 1), f"95 %: {span(one, two, 1)}"))
    tiles += [
        ("General ability, points", signed(moved), f"95 %: {span(low, high)}; margin {MINUS}{macro['margin_points']:g}"),
        ("Smallest loss it could see", f"{macro['detectable_points']:.2f}", "points on average, 4 times in 5"),
        ("Attempt on these items", f"{verdict['attempt']} of {verdict['policy']['attempts']}", f"alpha {verdict['alpha']:g}"),
    ]  # fmt: skip
    return f'<div class="tiles">{"".join(_tile(*tile) for tile in tiles)}</div>'


def _tile(name: str, value: str, note: str) -> str:
    return f'<div class="tile"><span>{esc(name)}</span><b>{esc(value)}</b><span>{esc(note)}</span></div>'


def _left(material: Material) -> int:
    """Items that the scorer left out, because the rule had decided without them."""
    return int(material.tuned[1].get("rounds", {}).get("items_left", 0)) if material.tuned else 0


def _seen(verdict: Mapping[str, Any], left: int) -> str:
    """What the gate could, and could not, have seen: the power statement."""
    macro = verdict.get("macro")
    judged = [row for row in verdict.get("benchmarks", ()) if row["status"] == "judged"]
    if not macro or not judged:
        return ""
    alone = sorted(_seen_alone(row) for row in judged)
    single = f"{alone[0]:.1f}" if alone[-1] - alone[0] < 0.1 else f"{alone[0]:.1f} to {alone[-1]:.1f}"
    text = (
        f"What this gate could see: an average drop of {macro['detectable_points']:.2f} points or more in 4 of 5 such runs, and about "
        f"{single} points in a single benchmark. Smaller changes stay within chance: it does not say that there were none."
    )
    if verdict["items_used_percent"] < 100:
        text += f" It stopped at look {verdict['look']}, after {verdict['items_used_percent']:g} % of the items"
        text += f"; {plural(left, 'item')} need not be scored." if left else "."
    if macro["detectable_points"] > macro["margin_points"]:
        text += f" With a margin of {macro['margin_points']:g} points that is coarse: an unharmed model would often not pass."  # fmt: skip
    return f'<p class="soft">{esc(text)}</p>'


def _seen_alone(row: Mapping[str, Any]) -> float:
    """Points; items of which none flipped may still flip in 3 of n (the rule of three), so the interval is not all."""
    quiet: float = 100 * 2.49 * 3**0.5 / row["n"]
    return max((row["high"] - row["low"]) / 2 * SEEN_BY_INTERVAL, quiet)


def _notes(verdict: Mapping[str, Any]) -> str:
    """Warnings, benchmarks that tell nothing, and waivers with who gave them."""
    lines = []
    for row in verdict.get("benchmarks", ()):
        if row["status"] == "uninformative":
            lines.append(f"{row['name']} tells nothing: the baseline is near chance ({score(row['chance'], row)}), so it is left out of the average.")  # fmt: skip
        elif row["saturated"]:
            lines.append(f"{row['name']} is saturated ({score(row['base'], row)}): it can show a loss, but no gain.")
    for waiver in verdict.get("waivers", ()):
        state = "holds" if waiver["holds"] else "does not hold (expired, or for another model)"
        lines.append(f"Waiver for {waiver['benchmark']} by {waiver['who']} until {waiver['until']}: {waiver['why']}. It {state}.")  # fmt: skip
    warnings = verdict.get("warnings", ())
    if len(warnings) > MOST_WARNINGS:
        return listed(lines) + details(f"{len(warnings)} warnings", listed(warnings))
    return listed([*lines, *(f"Warning: {text}" for text in warnings)])


def _next(material: Material) -> str:
    # A report with a repair in it was written after the repair: it does not announce one.
    verdict = (
        {**material.verdict, "action": "stop"}
        if material.repair and material.verdict["action"] == "repair"
        else material.verdict
    )
    steps = advice(verdict, material.recipe.get("recipe", {}))
    return f'<div class="next"><h3>What to do next</h3>{listed(steps)}</div>' if steps else ""
