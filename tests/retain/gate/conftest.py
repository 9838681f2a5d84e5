"""Scores on disk and in memory, as the score step writes them, from drawn right-or-wrong items."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from retain.artifacts import ITEM_SCHEMA, write_scores
from retain.digest import of_json

Values = Mapping[str, Any]
BASE, TUNED = of_json("base"), of_json("tuned")


def item(task: str, number: int, value: float, *, chance: float, cluster: str = "", p_gold: float = float("nan")) -> dict[str, Any]:  # fmt: skip
    doc = of_json([task, number])
    return {
        "task": task, "task_version": "1", "doc_id": str(number), "doc_hash": doc, "cluster": cluster or doc, "stratum": "", "metric": "acc",
        "higher_is_better": True, "value": float(value), "chance": chance, "p_gold": p_gold, "output": "", "gold": "", "truncated": False,
    }  # fmt: skip


def meta(model_digest: str, tasks: list[str]) -> dict[str, Any]:
    task = {"version": "1", "num_fewshot": 0, "fewshot_seed": 0, "metric": "acc"}
    return {
        "model_digest": model_digest, "tokenizer_digest": "t", "template_digest": "t", "engine": "retain", "engine_version": "1", "dtype": "bf16",
        "device": "cpu", "batch_budget": 4096, "tasks": {name: dict(task) for name in tasks},
    }  # fmt: skip


def rows_of(values: Values, chance: float, clusters: int) -> list[dict[str, Any]]:
    return [
        item(task, i, v, chance=chance, cluster=f"c{i // clusters}" if clusters > 1 else "")
        for task, column in values.items()
        for i, v in enumerate(column)
    ]


@pytest.fixture
def scores() -> Callable[..., Any]:
    """scores(values, digest) → what read_scores returns: (table, scores.json)."""

    def build(values: Values, digest: str = BASE, *, chance: float = 0.25, per_cluster: int = 1) -> Any:
        rows = rows_of(values, chance, per_cluster)
        return pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), meta(digest, list(values))

    return build


@pytest.fixture
def scores_folder() -> Callable[..., Path]:
    """The same as a scores/ folder on disk."""

    def build(folder: Path, values: Values, digest: str = BASE, *, chance: float = 0.25, per_cluster: int = 1) -> Path:
        write_scores(folder, rows_of(values, chance, per_cluster), meta(digest, list(values)))
        return folder

    return build


def paired(rng: np.random.Generator, n: int, drop: float, flips: float) -> tuple[Any, Any]:
    """Right-or-wrong answers of base and candidate with a true drop and flip rate (fractions); base right in 60 %."""
    u = rng.random(n)
    lost, won = (flips + drop) / 2, (flips - drop) / 2
    base = np.where(u < lost, 1.0, np.where(u < lost + won, 0.0, (rng.random(n) < 0.6).astype(float)))
    tuned = np.where(u < lost, 0.0, np.where(u < lost + won, 1.0, base))
    return base, tuned


@pytest.fixture
def draw() -> Callable[..., tuple[dict[str, Any], dict[str, Any]]]:
    """draw({task: (n, drop, flips)}, seed) → (base values, tuned values)."""

    def build(plan: Mapping[str, tuple[int, float, float]], seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
        rng = np.random.default_rng(seed)
        both = {task: paired(rng, *what) for task, what in plan.items()}
        return {t: b for t, (b, _) in both.items()}, {t: c for t, (_, c) in both.items()}

    return build


@pytest.fixture
def tuned_digest() -> str:
    return TUNED
