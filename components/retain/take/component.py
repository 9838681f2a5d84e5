"""KFP face of the first task of one domain's training."""

from typing import NamedTuple

from retain.faces import on_cpu


@on_cpu
def take(
    entry: dict,
) -> NamedTuple(  # type: ignore[valid-type]
    "Taken",
    [
        ("domain", str), ("base", dict), ("sources", list), ("checks", dict), ("rehearse", dict), ("template", dict), ("mix", dict),
        ("score", dict), ("train", dict),
    ],
):  # fmt: skip
    """Take one domain's entry apart, so that each step of its training reads its own settings.

    Args:
        entry: one domain, as divide names it.
    """
    from retain.take.door import run

    return run(entry)
