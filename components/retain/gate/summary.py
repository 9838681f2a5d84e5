"""The verdict in ten lines of Markdown, for the pipeline's page and a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from retain.gate.verdict import Reason, Verdict

HEAD = {
    "pass": "PASS: may be published",
    "regressed": "REGRESSED: the gate is closed",
    "inconclusive": "INCONCLUSIVE: the gate is closed, the items do not suffice",
}
SENTENCE = {
    "macro_margin": "the macro average may have dropped by {limit:g} points or more (seen: {got:.2f})",
    "benchmark_drop": "{name} fell by {got:.2f} points, beyond chance (limit {limit:g})",
    "critical_margin": "{name} is critical: a drop of {limit:g} points is not excluded (seen: {got:.2f})",
    "target_not_improved": "the metric of the target rows ({name}) did not surely improve (drop {got:.2f} points)",
    "target_worse": "the metric of the target rows ({name}) got worse by {got:.2f} points",
    "too_few_items": "{got:.0f} items a benchmark; {needed} would decide",
    "budget_spent": "attempt {got:.0f}, and the policy allows {limit:.0f} verdicts on these items",
    "uninformative": "{name} is critical, but the baseline is only {got:.2f} points above chance there",
    "equal_digests": "candidate and baseline are the same model",
}


AGAINST = {"original": " (against the original base)", "champion": " (against the model in service)"}


def points(value: float) -> str:
    """With its sign and two digits; never a negative zero."""
    return f"{round(value, 2) + 0.0:+.2f}"


def interval(row: Mapping[str, Any]) -> str:
    """The 95 % interval of the change: the drop's, turned round."""
    return f"{points(-row['high'])} … {points(-row['low'])}"


def sentence(reason: Reason) -> str:
    """A reason as a person says it."""
    text = SENTENCE[reason.code].format(name=reason.benchmark, got=reason.got, limit=reason.limit, needed=reason.items_needed)  # fmt: skip
    return text + AGAINST.get(reason.role, "")


def waived(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whose drops were let pass by whom, and which waivers do so no longer; in one line."""
    said = (f"{row['benchmark']} by {row['who']} until {row['until']}{'' if row['holds'] else ' (expired: it lifts nothing)'}" for row in rows)  # fmt: skip
    return "Waived: " + "; ".join(said)


def summary(verdict: Verdict) -> str:
    """At most ten lines, whatever the number of benchmarks."""
    macro, target = verdict.macro, verdict.target
    lines = [f"**{HEAD[verdict.verdict]}** → {verdict.action}", ""]
    reasons = [sentence(r) for r in verdict.reasons]
    lines += [f"- {text}" for text in reasons[:3]] + ([f"- and {len(reasons) - 3} more"] if len(reasons) > 3 else [])
    lines.append(
        f"- Macro drop over {macro['benchmarks']} benchmarks: {points(macro['drop_points'])} points (95 %: {points(macro['low'])} to {points(macro['high'])}), "
        f"margin {macro['margin_points']:g}; this gate could see a drop of {macro['detectable_points']:.2f} points"
    )
    if "n" in target:
        lines.append(f"- Target {target['name']}: {100 * target['base']:.1f} → {100 * target['tuned']:.1f} ({target['n']} rows)")  # fmt: skip
    lines.append(f"- Attempt {verdict.attempt}, alpha {verdict.alpha:g}, look {verdict.look}: {verdict.items_used_percent:g} % of the items used")  # fmt: skip
    notes = [
        *([waived(verdict.waivers)] if verdict.waivers else []),
        *(f"Warning: {text}" for text in verdict.warnings),
    ]
    lines += [f"- {text}" for text in notes[:1]]
    return "\n".join(lines) + "\n"
