"""Tokens in, mixture out: decontaminated, drawn to exact shares, interleaved, with validation rows of both kinds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retain import artifacts
from retain.errors import DataRefused
from retain.mix import draw
from retain.mix.config import MixConfig
from retain.mix.decontaminate import decontaminate
from retain.mix.report import report_page

if TYPE_CHECKING:
    from retain.score.items import GateItem

PARTS = ("target", "replay", "safety")
GENERATED = "generated"  # source of the rows that the base wrote itself (step rehearse)
READ_ROWS = 2000


@dataclass(frozen=True)
class MixResult:
    """Counts of the mixture; shares are of all train tokens."""

    rows: int
    tokens: int
    replay_tokens: int
    replay_share: float
    safety_share: float
    target_validation_rows: int
    replay_validation_rows: int
    contaminated_rows: int
    digest: str


def mix(config: MixConfig, rendered: Path, items: Iterable["GateItem"], mixture: Path, report: Path) -> MixResult:
    """Write ``mixture``: split train (target, replay and safety interleaved) and split validation of target and replay.

    ``items`` are the gate's own; rows that hold one are dropped and listed in mixture/decontamination.jsonl.
    Raises DataRefused (exit 7) where rows are too few for their share, or where the target rows are the benchmark.
    """
    info = artifacts.read_info(rendered, "retain.rendered/1")
    artifacts.check_writable(mixture)
    table = _read(rendered)
    cleaning = decontaminate(config.decontamination, rendered, table, items, mixture)
    chosen = _choose(config, _Rows(table, cleaning.dropped, info.get("source_weights", {})))
    achieved = _achieved(table, chosen)
    facts = {
        "asked": {"replay": config.share, "safety": config.safety_share}, "achieved": achieved, "seed": config.seed,
        "rendered_digest": info["digest"], "template_digest": info["template_digest"], "tokenizer_digest": info["tokenizer_digest"],
        "options": info["options"], "decontamination": cleaning.facts(), "sources": _by_source(table, chosen),
    }  # fmt: skip
    written = artifacts.write_rows(mixture, "retain.mixture/1", _ordered(table, chosen), **facts)
    report.write_text(report_page(config, written, cleaning, _strip(table, chosen["train"])), encoding="utf-8")
    return MixResult(
        rows=len(chosen["train"]), tokens=achieved["tokens"], replay_tokens=achieved["replay_tokens"], replay_share=achieved["replay"],
        safety_share=achieved["safety"], target_validation_rows=len(chosen["target"]), replay_validation_rows=len(chosen["replay"]),
        contaminated_rows=len(cleaning.dropped), digest=written["digest"],
    )  # fmt: skip


def _read(rendered: Path) -> pa.Table:
    """All rows; memory: their token ids."""
    tables = list(artifacts.read_tables(rendered))
    if not tables:
        raise DataRefused(
            "there is no row to mix",
            where=str(rendered),
            expected="rendered rows",
            fix="look at the report of validate",
        )
    table = pa.concat_tables(tables)
    rejected = pc.fill_null(pc.list_value_length(table.column("rejected_input_ids")), 0)
    return table.append_column("tokens", pc.add(pc.list_value_length(table.column("input_ids")), rejected))


class _Rows:
    """Row numbers by part, split and source; what is dropped is out."""

    def __init__(self, table: pa.Table, dropped: Mapping[int, Any], weights: Mapping[str, float]) -> None:
        self._columns = {name: np.array(table.column(name).to_pylist()) for name in ("part", "split", "source")}
        self._tokens = table.column("tokens").to_numpy()
        self._weights = weights
        self._open = np.ones(len(table), dtype=bool)
        self._open[list(dropped)] = False

    def of(self, part: str, split: str) -> np.ndarray:
        return np.flatnonzero(self._open & (self._columns["part"] == part) & (self._columns["split"] == split))

    def sources(self, rows: np.ndarray) -> list[draw.Source]:
        names = self._columns["source"][rows]
        return [
            draw.Source(
                str(name), rows[names == name], self._tokens[rows[names == name]], self._weights.get(str(name), 1.0)
            )
            for name in sorted(set(names.tolist()))
        ]

    def tokens(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._tokens[rows])

    def from_source(self, rows: np.ndarray, source: str) -> np.ndarray:
        wanted = self._columns["source"][rows] == GENERATED
        return rows[wanted if source == "generated" else ~wanted]


def _choose(config: MixConfig, rows: _Rows) -> dict[str, np.ndarray]:
    """Row numbers of split train in their order, and of the validation rows of target and replay."""
    rng = np.random.default_rng(config.seed)
    target, target_validation = _set_apart(config, rows, "target", rng)
    replay, replay_validation = _set_apart(config, rows, "replay", rng)
    if not len(target):
        raise DataRefused(
            "there is no target row to train on",
            expected="rows with part target and split train",
            fix="look at the report of validate",
        )
    streams = {"target": draw.by_weight(rows.sources(target), rng)}
    tokens = int(rows.tokens(streams["target"]).sum())
    shares = {"replay": config.share, "safety": config.safety_share}
    for part, have in (("replay", replay), ("safety", rows.of("safety", "train"))):
        budget = draw.budget_for(shares[part], sum(shares.values()) - shares[part], tokens)
        streams[part] = _fill(config, part, rows, have, budget, rng)
    order = draw.interleave({name: (numbers, rows.tokens(numbers)) for name, numbers in streams.items()})
    return {"train": order, "target": target_validation, "replay": replay_validation}


def _set_apart(config: MixConfig, rows: _Rows, part: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(train rows, validation rows) of a part; without a validation split, a few train rows become one."""
    train, validation = rows.of(part, "train"), rows.of(part, "validation")
    if part == "replay" and config.source != "both":
        train, validation = rows.from_source(train, config.source), rows.from_source(validation, config.source)
    if not len(validation) and len(train) > 1:
        count = min(config.validation_rows, max(1, len(train) // 10))
        apart = rng.permutation(len(train))[:count]
        validation, train = train[np.sort(apart)], np.delete(train, apart)
    most = config.max_validation_rows
    if most and len(validation) > most:
        validation = validation[np.sort(rng.permutation(len(validation))[:most])]
    return train, validation


def _fill(
    config: MixConfig, part: str, rows: _Rows, have: np.ndarray, budget: int, rng: np.random.Generator
) -> np.ndarray:
    tokens = int(rows.tokens(have).sum())
    if budget > tokens and (config.shortfall == "refuse" or not tokens):
        advice = (
            "add rows with part replay, set replay.source: generated (the base writes them), or replay.share: 0"
            if part == "replay"
            else "add rows with part safety, or set safety_share: 0"
        )
        raise DataRefused(
            f"too few {part} rows for their share", got=f"{tokens:,} tokens in {len(have):,} rows", expected=f"{budget:,} tokens",
            fix=f"{advice}; replay.shortfall: accept or oversample takes what there is",
        )  # fmt: skip
    return draw.by_budget(rows.sources(have), budget, rng, repeat=config.shortfall == "oversample")


def _achieved(table: pa.Table, chosen: Mapping[str, np.ndarray]) -> dict[str, Any]:
    part = np.array(table.column("part").to_pylist())[chosen["train"]]
    tokens = table.column("tokens").to_numpy()[chosen["train"]]
    sums = {name: int(tokens[part == name].sum()) for name in PARTS}
    whole = max(sum(sums.values()), 1)
    return {
        "tokens": sum(sums.values()),
        "replay_tokens": sums["replay"],
        "replay": sums["replay"] / whole,
        "safety": sums["safety"] / whole,
    }


def _by_source(table: pa.Table, chosen: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Rows, tokens and repeats of every source in split train."""
    names = [table.column(name).to_pylist() for name in ("part", "source", "tokens")]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    seen: set[int] = set()
    for row in chosen["train"].tolist():
        part, source, tokens = (column[row] for column in names)
        entry = found.setdefault((part, source), {"part": part, "source": source, "rows": 0, "tokens": 0, "repeats": 0})
        entry["rows"] += 1
        entry["tokens"] += tokens
        entry["repeats"] += row in seen
        seen.add(row)
    return [found[key] for key in sorted(found, key=lambda key: (PARTS.index(key[0]), key[1]))]


def _ordered(table: pa.Table, chosen: Mapping[str, np.ndarray]) -> Iterable[dict[str, Any]]:
    """Train rows in their order, then the validation rows; a repeated row gets a number of its own behind its id."""
    times: dict[int, int] = {}
    for use in ("train", "target", "replay"):
        numbers = chosen[use]
        for start in range(0, len(numbers), READ_ROWS):
            block = numbers[start : start + READ_ROWS]
            for number, row in zip(block.tolist(), table.take(block).drop_columns(["tokens"]).to_pylist(), strict=True):
                times[number] = times.get(number, 0) + 1
                again = f"~{times[number]}" if times[number] > 1 else ""
                yield {**row, "id": row["id"] + again, "split": "train" if use == "train" else "validation"}


def _strip(table: pa.Table, order: np.ndarray, pieces: int = 100) -> list[float]:
    """Share of replay and safety tokens in each hundredth of the mixture, to see that they lie evenly."""
    part = np.array(table.column("part").to_pylist())[order]
    tokens = table.column("tokens").to_numpy()[order]
    blocks = np.array_split(np.arange(len(order)), min(pieces, max(1, len(order) // 20)))
    return [float(tokens[block][part[block] != "target"].sum() / max(tokens[block].sum(), 1)) for block in blocks]
