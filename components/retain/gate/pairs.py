"""Join the items of two scorings, and refuse whatever cannot be compared (exit 6)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retain.errors import IntegrityError, PolicyError
from retain.gate.statistics import Array, Summary, from_clusters, from_counts, mcnemar_p, sign_flip_p

Scores = tuple[pa.Table, Mapping[str, Any]]
PREVIEW = "adapter-preview"
FEWEST_CLUSTERS = 20
SAME_ALWAYS = ("engine", "engine_version", "dtype", "device", "batch_budget", "attention", "max_length")
SAME_FAMILY = ("tokenizer_digest", "template_digest")
SAME_TASK = ("version", "num_fewshot", "fewshot_seed", "metric")


@dataclass(frozen=True)
class Pairs:
    """One task's items on both sides, in the order of doc_hash. base, tuned: higher is better, shape (n,).

    sign: −1 where the metric itself is better when lower (its values are then negated here).
    """

    name: str
    base: Array
    tuned: Array
    doc_hash: tuple[str, ...]
    cluster: tuple[str, ...]
    chance: float = 0.0
    metric: str = ""
    sign: float = 1.0
    p_base: tuple[float, ...] = ()
    p_tuned: tuple[float, ...] = ()

    @property
    def binary(self) -> bool:
        return bool(np.isin(self.base, (0, 1)).all() and np.isin(self.tuned, (0, 1)).all())

    @property
    def clustered(self) -> bool:
        return self.clusters < len(self.cluster)

    @property
    def clusters(self) -> int:
        return len(set(self.cluster))

    @property
    def too_few(self) -> bool:
        """Whether the clustered way would have to rest on too few clusters."""
        return (self.clustered or not self.binary) and self.clusters < FEWEST_CLUSTERS

    def take(self, mask: Any) -> "Pairs":
        """The items where ``mask`` (n,) is true."""
        chosen = np.flatnonzero(mask)

        def cut(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in chosen) if values else ()

        return replace(
            self, base=self.base[chosen], tuned=self.tuned[chosen], doc_hash=cut(self.doc_hash), cluster=cut(self.cluster),
            p_base=cut(self.p_base), p_tuned=cut(self.p_tuned),
        )  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """A task's pairs as numbers: counts, summary, and one-sided p-values."""

    summary: Summary
    b: int
    c: int
    clusters: int
    p_worse: float
    p_better: float


def count(pairs: Pairs) -> Counted:
    """Right-or-wrong items without clusters take the exact way; everything else is clustered (an item may be its own)."""
    d = pairs.base - pairs.tuned
    b, c, n = int((d > 0).sum()), int((d < 0).sum()), len(d)
    if pairs.binary and not pairs.clustered:
        return Counted(from_counts(b, c, n), b, c, n, float(mcnemar_p(b, c)), float(mcnemar_p(c, b)))
    sums, moved, squares, sizes = cluster_sums(d, pairs.cluster)
    summary = from_clusters(sums, moved, squares, sizes, binary=pairs.binary)
    return Counted(summary, b, c, len(sizes), sign_flip_p(sums), sign_flip_p(-sums))


def cluster_sums(d: Array, cluster: tuple[str, ...]) -> tuple[Array, Array, Array, Array]:
    """Per cluster: sum of d, count of d ≠ 0, sum of d², size. In an order of their own values, whatever the names."""
    _, code = np.unique(np.asarray(cluster), return_inverse=True)
    columns = [np.bincount(code, weights=w).astype(float) for w in (d, d != 0, d**2, np.ones_like(d))]
    order = np.lexsort(columns)
    sums, moved, squares, sizes = (column[order] for column in columns)
    return sums, moved, squares, sizes


def join(base: Scores, candidate: Scores, *, same_family: bool = True, preview: bool = False) -> list[Pairs]:
    """The tasks of both scorings, item by item, sorted by task; only each task's primary metric is kept.

    IntegrityError for other settings, versions, items or hashes, duplicates, scores out of range, and scores of an
    adapter that is not merged yet (unless ``preview``).
    """
    _same_settings(base[1], candidate[1], same_family)
    for side, scores in (("baseline", base), ("candidate", candidate)):
        if scores[1].get("model_digest") == PREVIEW and not preview:
            _refuse("scores of a switched-on adapter are a preview, not a verdict's ground", side, PREVIEW, "scores of the merged model", "merge the adapter and score the merged model")  # fmt: skip
    left, right = base[1].get("tasks", {}), candidate[1].get("tasks", {})
    if set(left) != set(right):
        _refuse("the two scorings do not have the same tasks", "scores.json", sorted(right), sorted(left), "score both models on the same tasks")  # fmt: skip
    return [_join_task(name, left[name], right[name], base[0], candidate[0]) for name in sorted(left)]


def retuned(pairs: Pairs, candidate: pa.Table) -> Pairs:
    """The same items with the values of another candidate; IntegrityError where it was not scored on just these."""
    rows = _rows(pairs.name, pairs.metric, candidate)
    documents = tuple(rows["doc_hash"].to_pylist())
    if documents != pairs.doc_hash:
        _refuse("a candidate was not scored on the same items", f"task {pairs.name}", f"{len(documents)} items", f"{len(pairs.doc_hash)} items", "score it on the items of the evidence")  # fmt: skip
    gold = tuple(map(float, rows["p_gold"].to_numpy(zero_copy_only=False))) if pairs.p_base else ()
    return replace(pairs, tuned=pairs.sign * _values(pairs.name, rows), p_tuned=gold)


def _same_settings(base: Mapping[str, Any], candidate: Mapping[str, Any], same_family: bool) -> None:
    for key in SAME_ALWAYS + (SAME_FAMILY if same_family else ()):
        if base.get(key) != candidate.get(key):
            _refuse(f"the two scorings differ in {key}", "scores.json", candidate.get(key), base.get(key), "score both models with the same settings")  # fmt: skip


def _join_task(
    name: str, left: Mapping[str, Any], right: Mapping[str, Any], base: pa.Table, candidate: pa.Table
) -> Pairs:
    for key in SAME_TASK:
        if left.get(key) != right.get(key):
            _refuse(f"the two scorings differ in the task's {key}", f"task {name}", right.get(key), left.get(key), "score both models on the same version")  # fmt: skip
    one, two = (_rows(name, str(left["metric"]), table) for table in (base, candidate))
    if not one.num_rows and not two.num_rows:
        raise PolicyError("a benchmark has no items", where=f"task {name}, metric {left['metric']}", got=0, expected="at least one", fix="take it out of score.tasks, or give it items")  # fmt: skip
    _same_items(name, one, two)
    sign = 1.0 if one["higher_is_better"][0].as_py() else -1.0
    values = [sign * _values(name, table) for table in (one, two)]
    chance = np.nan_to_num(np.asarray(one["chance"].to_numpy(zero_copy_only=False), dtype=float))
    gold = [tuple(map(float, table["p_gold"].to_numpy(zero_copy_only=False))) for table in (one, two)]
    seen = bool(np.isfinite(gold[0]).all() and np.isfinite(gold[1]).all())
    return Pairs(
        name, values[0], values[1], tuple(one["doc_hash"].to_pylist()), tuple(one["cluster"].to_pylist()),
        float(chance.mean()), str(left["metric"]), sign, gold[0] if seen else (), gold[1] if seen else (),
    )  # fmt: skip


def _rows(name: str, metric: str, table: pa.Table) -> pa.Table:
    chosen = table.filter(pc.and_(pc.equal(table["task"], name), pc.equal(table["metric"], metric)))
    return chosen.sort_by([("doc_hash", "ascending"), ("doc_id", "ascending")])


def _same_items(name: str, one: pa.Table, two: pa.Table) -> None:
    for table in (one, two):
        ids = table["doc_id"].to_pylist()
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            _refuse("an item was scored twice", f"task {name}, doc_id {twice}", "two values", "one", "score again")
    for column in ("doc_id", "doc_hash", "task_version", "cluster", "higher_is_better"):
        left, right = one[column].to_pylist(), two[column].to_pylist()
        if left != right:
            _refuse(
                "the two scorings do not have the same items", f"task {name}, column {column}", _only(right, left), _only(left, right),
                "score both models on the same items",
            )  # fmt: skip


def _only(mine: list[Any], other: list[Any]) -> str:
    extra = sorted({str(x) for x in mine} - {str(x) for x in other})
    return f"{len(mine)} items" + (f", alone here: {', '.join(extra[:3])}" if extra else "")


def _values(name: str, table: pa.Table) -> Array:
    values = np.asarray(table["value"].to_numpy(zero_copy_only=False), dtype=float)
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values))[0])
        _refuse("a score is not a number", f"task {name}, doc_id {table['doc_id'][place]}", values[place], "a finite value", "score again")  # fmt: skip
    return values


def _refuse(what: str, where: str, got: object, expected: object, fix: str) -> NoReturn:
    raise IntegrityError(what, where=where, got=got, expected=expected, fix=fix)
