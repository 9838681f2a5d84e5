"""Drop the rows that hold an item of the gate, and list each with both texts."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from retain import digest
from retain.errors import DataRefused, IntegrityError
from retain.mix.config import DecontaminationConfig
from retain.mix.contamination import Hit, ItemIndex
from retain.progress import track
from retain.template.texts import count_texts, read_texts

if TYPE_CHECKING:
    from retain.score.items import GateItem

FILE = "decontamination.jsonl"


@dataclass(frozen=True)
class Cleaning:
    """What was compared and what was dropped: row number → the line of decontamination.jsonl."""

    rows: int = 0
    items: int = 0
    items_digest: str = ""
    dropped: dict[int, dict[str, Any]] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """For info.json and the report: counts by task, part and method."""
        lines = self.dropped.values()
        counts = {
            name: dict(sorted(Counter(line[name] for line in lines).items())) for name in ("task", "part", "method")
        }
        return {
            "rows_compared": self.rows,
            "items": self.items,
            "items_digest": self.items_digest,
            "dropped": len(self.dropped),
            "by": counts,
        }


def decontaminate(
    config: DecontaminationConfig, rendered: Path, table: pa.Table, items: Iterable["GateItem"], mixture: Path
) -> Cleaning:
    """Compare the words of every rendered row with every item; writes mixture/decontamination.jsonl."""
    gate = sorted(items, key=lambda item: (item.task, item.doc_id)) if config.enabled else []
    if not gate:
        _write(mixture, [])
        return Cleaning()
    index = ItemIndex(gate, config)
    columns = [table.column(name).to_pylist() for name in ("id", "source", "part", "split")]
    dropped: dict[int, dict[str, Any]] = {}
    place = {name: number for number, name in enumerate(columns[0])}
    if len(place) != len(table):
        raise IntegrityError(
            "rows share an id, so their texts cannot be told apart",
            where=str(rendered),
            got=f"{len(table) - len(place)} repeats",
            fix="validate the rows again",
        )
    for name, text in track(read_texts(rendered), "decontaminate", total=count_texts(rendered)):
        number = place.get(name)
        if number is not None and (hit := index.find(text)) is not None:
            dropped[number] = _line([column[number] for column in columns], text, hit)
    _write(mixture, list(dropped.values()))
    _not_the_benchmark(config, columns[2], dropped, mixture)
    return Cleaning(len(table), len(gate), digest.of_rows([asdict(item) for item in gate]), dropped)


def _line(row: list[str], text: str, hit: Hit) -> dict[str, Any]:
    names = ("id", "source", "part", "split")
    return {**dict(zip(names, row, strict=True)), "text": text, **asdict(hit)}


def _write(mixture: Path, lines: list[dict[str, Any]]) -> None:
    partial = mixture / f"{FILE}.{os.getpid()}.partial"
    with partial.open("w", encoding="utf-8") as stream:
        stream.writelines(digest.canonical_json(line) + "\n" for line in lines)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(mixture / FILE)


def _not_the_benchmark(
    config: DecontaminationConfig, parts: list[str], dropped: dict[int, dict[str, Any]], mixture: Path
) -> None:
    lost = sum(line["part"] == "target" for line in dropped.values())
    rows = parts.count("target")
    if rows and lost / rows > config.max_dropped_share:
        raise DataRefused(
            "the target rows are the gate's own items", where=str(mixture / FILE), got=f"{lost:,} of {rows:,} rows hold an item",
            expected=f"at most {config.max_dropped_share:.0%}", fix="train on other rows, gate on other benchmarks, or raise decontamination.max_dropped_share",
        )  # fmt: skip
