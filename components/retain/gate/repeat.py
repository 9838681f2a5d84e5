"""A/A check: a model scored twice (other batches) must answer alike, or no difference of two models means anything."""

from retain.errors import IntegrityError
from retain.gate.pairs import Scores, count, join

MOST_FLIPS = 0.01


def check_repeatable(first: Scores, second: Scores, *, most: float = MOST_FLIPS) -> dict[str, float]:
    """Share of items that changed, by task; IntegrityError (6) at ``most`` or above (one item alone is let pass), or if the
    models differ.

    The batch budget may differ: that is what is tried.
    """
    one, two = first[1].get("model_digest"), second[1].get("model_digest")
    if one != two:
        raise IntegrityError("an A/A check scores one model twice", got=two, expected=one)
    counts = {task.name: count(task) for task in join(first, as_first(first, second), preview=True)}
    flips = {name: float(counted.summary.flips) for name, counted in counts.items()}
    loud = {name: rate for name, rate in flips.items() if rate >= most and counts[name].b + counts[name].c > 1}
    if loud:
        raise IntegrityError(
            "the same model answers differently when it is scored again", where=", ".join(loud), got=f"{100 * max(loud.values()):.1f} % of the items changed",
            expected=f"less than {100 * most:g} %", fix="score in fp32, or keep the batch budget fixed",
        )  # fmt: skip
    return flips


def as_first(first: Scores, second: Scores) -> Scores:
    """The second scoring of a model as if its batches had been those of the first."""
    return second[0], {**second[1], "batch_budget": first[1].get("batch_budget")}
