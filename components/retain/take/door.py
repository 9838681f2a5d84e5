"""What the pipeline's face runs: one domain's entry in, its parts out."""

from collections.abc import Mapping
from typing import Any

from retain.steps import running, say
from retain.take.work import take


def run(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    with running("take"):
        say(f"domain {entry['domain']}")
        return take(entry)
    raise AssertionError("unreachable: running() leaves on every error")
