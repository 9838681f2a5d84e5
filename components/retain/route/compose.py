"""The routed system's own scores: each item's record is that of the adapter its prompt was sent to.

So the gate judges what will be served, router's mistakes and all, with the same paired statistics as any candidate.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain.artifacts import read_scores, write_scores
from retain.errors import IntegrityError
from retain.route.router import BASE

SAME = ("tokenizer_digest", "template_digest")
Key = tuple[str, str]


class Tables:
    """Scores of the base and of every adapter on the same items."""

    def __init__(self, base: Path, adapters: Mapping[str, Path]) -> None:
        folders = {BASE: base, **adapters}
        read = {name: read_scores(folder) for name, folder in folders.items()}
        self.meta = {name: meta for name, (_, meta) in read.items()}
        self.records = {name: {_key(row): row for row in table.to_pylist()} for name, (table, _) in read.items()}
        for name in adapters:
            self._same_items(name, folders[name])

    def _same_items(self, name: str, folder: Path) -> None:
        for field in SAME:
            if self.meta[name][field] != self.meta[BASE][field]:
                raise IntegrityError(f"the scores of '{name}' have another {field}", where=str(folder), got=self.meta[name][field], expected=self.meta[BASE][field])  # fmt: skip
        if odd := sorted(set(self.records[name]) ^ set(self.records[BASE])):
            raise IntegrityError(f"'{name}' and the base were asked different items", where=str(folder), got=f"{len(odd)} items, e.g. {'/'.join(odd[0])}", expected="the same items", fix="score both with the same settings")  # fmt: skip

    def mean(self, name: str, keys: set[Key]) -> float:
        """Mean of the primary metric over items of one task."""
        tasks = self.meta[BASE]["tasks"]
        values = [row["value"] for key, row in self.records[name].items() if key[:2] in keys and key[2] == tasks[key[0]]["metric"]]  # fmt: skip
        return sum(values) / max(len(values), 1)


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return (row["task"], row["doc_id"], row["metric"])


def compose(tables: Tables, chosen: Mapping[Key, str], model_digest: str, out: Path) -> dict[str, Any]:
    """Write scores/ of the routed system and return its scores.json. chosen: (task, doc_id) → adapter or base."""
    keys = list(tables.records[BASE])
    if missing := sorted({key[:2] for key in keys} - set(chosen)):
        raise IntegrityError("a scored item has no prompt to route", got="/".join(missing[0]), expected="items of this recipe and dataset", fix="give the recipe and the dataset that were scored")  # fmt: skip
    rows = [tables.records[chosen[key[:2]]][key] for key in keys]
    meta = {key: value for key, value in tables.meta[BASE].items() if key not in ("schema", "items_sha256")}
    return write_scores(out, rows, {**meta, "role": "candidate", "model_digest": model_digest, "tasks": _tasks(meta["tasks"], rows)})  # fmt: skip


def _tasks(known: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = {}
    for name, facts in known.items():
        mine = [row for row in rows if row["task"] == name]
        means = {metric: _mean([r["value"] for r in mine if r["metric"] == metric]) for metric in facts["metrics"]}
        found[name] = {**facts, "metrics": means, "mean": means[facts["metric"]], "truncated": sum(r["truncated"] for r in mine if r["metric"] == facts["metric"])}  # fmt: skip
        found[name].pop("macro_f1", None)  # of a whole run of one model; not a mean of items
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
