"""What to do about a closed gate: from its reasons and the settings in force, most helpful first."""

from collections.abc import Mapping
from typing import Any

from retain.page import Html, esc
from retain.train.config import MERGEABLE, METHOD_RATES, known_rates

LOST = {"macro_margin", "benchmark_drop", "critical_margin"}
STRENGTH, SHARE, MOST_SHARE = 0.7, 0.05, 0.25
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
        steps += _forget_less(recipe)
    elif codes & LOST or "too_few_items" in codes:
        steps += _see_more(needed)
    steps += [step for code, step in OTHERS.items() if code in codes]
    return steps


def _forget_less(recipe: Settings) -> list[Html]:
    train, data = recipe.get("train", {}), recipe.get("data", {})
    method = train.get("method", "")
    steps = []
    if method in {"", *MERGEABLE}:
        steps.append(_set("Go back towards the base without training again: the loss shrinks faster than the gain", "merge.strength", STRENGTH))  # fmt: skip
    if method == "full":
        steps.append(_set("Train low-rank adapters instead of every weight", "train.method", "lora"))
    steps += _lower_rate(method, train.get("objective", "sft"), train.get("learning_rate", "auto"))
    share = data.get("replay", {}).get("share", 0.0)
    if share < MOST_SHARE:
        wanted = SHARE if share < SHARE else min(MOST_SHARE, round(3 * share, 2))
        steps.append(_set(f"Mix in more general rows ({100 * share:g} % of the tokens now)" if data else "Mix in more general rows", "data.replay.share", wanted))  # fmt: skip
    if train.get("num_train_epochs", 0) > 2:
        steps.append(_set(f"Train shorter ({train['num_train_epochs']:g} epochs now)", "train.num_train_epochs", 2))
    return steps


def _lower_rate(method: str, objective: str, rate: Any) -> list[Html]:
    if method not in METHOD_RATES:
        return []
    usual, most = known_rates(method, objective)
    rate = usual if rate in ("auto", 0) else rate
    if rate <= usual:
        return [_set(f"Lower the rate ({rate:g} now)", "train.learning_rate", f"{rate / 2:g}")]
    too_high = f"; above {most:g} {method} is known to forget" if rate > most else ""
    return [_set(f"Lower the rate ({rate:g} now{too_high})", "train.learning_rate", f"{usual:g}")]


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
