"""What to do about a closed gate: from its reasons and the settings in force, most helpful first."""

from collections.abc import Mapping
from typing import Any

from retain.page import Html, esc
from retain.repair.proposal import forget_less
from retain.train.config import MERGEABLE

LOST = {"macro_margin", "benchmark_drop", "critical_margin"}
Settings = Mapping[str, Any]


def advice(verdict: Settings, recipe: Settings) -> list[Html]:
    """Steps for a person; empty where the gate is open. ``recipe``: the resolved one, or empty (then without settings)."""
    if verdict["verdict"] == "pass":
        waiting = [Html("Read the flipped items below; approving it publishes this very digest.")]
        return waiting if verdict["action"] == "wait" else []
    codes = {r["code"] for r in verdict["reasons"]}
    needed = max((r["items_needed"] for r in verdict["reasons"]), default=0)
    steps: list[Html] = []
    if verdict["action"] == "repair":
        steps.append(Html("The run goes on with a repair: weaker strengths are tried on items set apart, and the strongest that should pass is gated once more."))  # fmt: skip
    if codes & LOST and verdict["verdict"] == "regressed":
        steps += _forget_less(recipe, repairs=verdict["policy"].get("on_fail") == "repair")
    elif codes & LOST or "too_few_items" in codes:
        steps += _see_more(needed)
    steps += [step for code, step in OTHERS.items() if code in codes]
    return steps


def _forget_less(recipe: Settings, *, repairs: bool) -> list[Html]:
    method = recipe.get("train", {}).get("method", "")
    steps = []
    if method in {"", *MERGEABLE} and not repairs:
        steps.append(_set("Go back towards the base without training again, as far as items set apart say is enough", "gate.on_fail", "repair"))  # fmt: skip
    return steps + [_set(change.why, change.key, change.then) for change in forget_less(recipe)]


def _see_more(needed: int) -> list[Html]:
    items = f"{needed:,} items a benchmark would decide" if needed else "more items would decide"
    return [
        Html(f"Score more items: {esc(items)} (<code>score.tasks</code>: a higher <code>limit</code>, or further benchmarks in the average)."),
        Html("Or accept a wider margin, knowingly: <code>--set gate.macro_margin_points=…</code> is what may be lost unseen."),
    ]  # fmt: skip


def _set(why: str, key: str, value: object) -> Html:
    return Html(f"{esc(why)}: <code>--set {esc(key)}={esc(value)}</code>")


OTHERS: Mapping[str, Html] = {
    "target_not_improved": Html("The target did not move enough: more or better target rows, more epochs, or more test rows to see a small gain (<code>split: test</code>)."),
    "target_worse": Html("The target got worse: read the target's rows below. A wrong template, labels that contradict each other, or an answer format the metric does not accept are the usual causes."),
    "uninformative": Html("A critical benchmark tells nothing at this model size: choose one the base can do, or make it <code>supporting</code>."),
    "budget_spent": Html("These items have been asked too often: take other benchmarks, or fresh items, before the next attempt."),
    "integrity": Html("Score both models again with the same tasks, template, precision and version of retain."),
}  # fmt: skip
