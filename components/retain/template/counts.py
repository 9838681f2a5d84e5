"""What became of the rows, counted for the page and the metrics."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Counts:
    """What became of the rows; keys of ``groups`` are (part, split)."""

    groups: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # (part, split, rows|tokens|supervised)
    tokenised: int = 0
    cached: int = 0
    test: int = 0
    rewritten: int = 0
    long_rows: list[tuple[str, int]] = field(default_factory=list)  # (id, tokens)
    source_weights: dict[str, float] = field(default_factory=dict)

    def add(self, row: dict[str, Any]) -> None:
        place = (row["part"], row["split"])
        self.groups[(*place, "rows")] += 1
        self.groups[(*place, "tokens")] += len(row["input_ids"]) + len(row.get("rejected_input_ids", ()))
        self.groups[(*place, "supervised")] += row["n_supervised"]

    def total(self, what: str) -> int:
        return sum(count for (_, _, name), count in self.groups.items() if name == what)
