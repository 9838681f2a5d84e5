"""Weights of rows, tokens and datasets: what they are, and that a training follows them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retain import artifacts, models
from retain.errors import ConfigError, DataRefused
from retain.train.batches import Shape, as_batches
from retain.train.loss import Head
from retain.train.method_config import WeightingConfig
from retain.train.rows import Row, read_mixture, total_weight
from retain.train.weighting import base_losses, weigh

from .conftest import Trained, token_rows

SHAPE = Shape(4096, padded=True)


@pytest.fixture
def rows(mixture: Path) -> list[Row]:
    return read_mixture(mixture, longest=512).train


@pytest.fixture
def base(tiny_llama: Path) -> Any:
    return models.load_model(tiny_llama, dtype="fp32")


def test_the_bases_losses_are_its_cross_entropy(base: Any, rows: list[Row]) -> None:
    losses = base_losses(base, rows, SHAPE)
    head = Head(base)
    for row, own in zip(rows, losses, strict=True):
        (micro,) = as_batches([row._replace(weight=1.0)], SHAPE)
        assert len(own) == row.supervised
        assert own.sum() == pytest.approx(float(head.loss(base, micro).detach()), abs=1e-3)


@pytest.mark.parametrize(("temperature", "scale"), [("auto", None), (2.0, 2.0)])
def test_flow_halves_nothing_but_what_is_hard(
    base: Any, rows: list[Row], temperature: Any, scale: float | None
) -> None:
    means = [float(own.mean()) for own in base_losses(base, rows, SHAPE)]
    flowed = weigh(WeightingConfig(kind="flow", temperature=temperature), base, rows, SHAPE)
    scale = scale or float(np.median([mean for mean, row in zip(means, rows, strict=True) if row.part == "target"]))
    for before, after, mean in zip(rows, flowed, means, strict=True):
        wanted = before.weight * np.exp(-mean / scale) if before.part == "target" else before.weight
        assert after.weight == pytest.approx(wanted, rel=1e-5)


def test_stm_leaves_out_the_tokens_that_surprise_the_base(base: Any, rows: list[Row]) -> None:
    losses = base_losses(base, rows, SHAPE)
    limit = float(np.median(np.concatenate(losses)))
    masked = {row.id: row for row in weigh(WeightingConfig(kind="stm", max_token_nats=limit), base, rows, SHAPE)}
    for before, own in zip(rows, losses, strict=True):
        left = int((own <= limit).sum()) if before.part == "target" else before.supervised
        assert (masked[before.id].supervised if before.id in masked else 0) == left
    assert all(row.supervised for row in masked.values())
    kept = next(row for row in masked.values() if row.part == "target")
    own = base_losses(base, [kept], SHAPE)[0]
    assert own.max() <= limit + 1e-4  # the very tokens, not only as many


def test_a_limit_below_every_token_is_refused(base: Any, rows: list[Row]) -> None:
    with pytest.raises(DataRefused, match="nothing is left to learn"):
        weigh(WeightingConfig(kind="stm", max_token_nats=1e-6), base, rows, SHAPE)


STEPS: dict[str, Any] = {"max_steps": 3, "eval_steps": 3}
FLIPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "kind": ({}, {"weighting": {"kind": "flow"}}),
    "temperature": ({"weighting": {"kind": "flow"}}, {"weighting": {"kind": "flow", "temperature": 1.0}}),
    "max_token_nats": ({"weighting": {"kind": "stm", "max_token_nats": 5.9}}, {"weighting": {"kind": "stm", "max_token_nats": 5.7}}),
    "task_weights": ({}, {"task_weights": {"made": 1.0, "other": 3.0}}),
}  # fmt: skip


@pytest.fixture(scope="session")
def two_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two") / "mixture"
    rows = (row | {"source": "other" if i % 3 == 0 else "made"} for i, row in enumerate(token_rows(32)))
    artifacts.write_rows(folder, "retain.mixture/1", rows)
    return folder


@pytest.mark.parametrize("knob", FLIPS)
def test_flipping_a_knob_changes_the_result(knob: str, trained: Trained, two_tasks: Path) -> None:
    one, two = (trained(str(i), rows=two_tasks, **STEPS, **how) for i, how in enumerate(FLIPS[knob]))
    assert one.adapter_digest != two.adapter_digest


@pytest.mark.parametrize("method", ["full", "bottleneck", "prompt", "osf"])
def test_every_kind_of_method_finds_its_base(method: str, trained: Trained, two_tasks: Path, base: Any) -> None:
    """The losses that weigh are the base's own, whatever sits on it already."""
    assert trained(rows=two_tasks, method=method, weighting={"kind": "flow"}, **STEPS).steps == 3


def test_each_dataset_is_watched_by_itself(trained: Trained, two_tasks: Path, tmp_path: Path) -> None:
    seen: dict[int, dict[str, float]] = {}
    result = trained(rows=two_tasks, log=lambda m, s: seen.setdefault(s, {}).update(m), **STEPS)
    parts = {name: seen[3][f"target_validation_nats/{name}"] for name in ("made", "other")}
    rows = read_mixture(two_tasks, longest=512).target_validation
    weights = {name: total_weight([row for row in rows if row.source == name]) for name in parts}
    mean = sum(weights[name] * parts[name] for name in parts) / sum(weights.values())
    assert result.target_validation_nats == pytest.approx(mean, abs=1e-6)
    curves = json.loads((tmp_path / "run" / "adapter" / "losses.json").read_text())["by_dataset"]
    assert {name: curve[-1] for name, curve in curves.items()} == {name: [3, loss] for name, loss in parts.items()}


def test_a_heavier_dataset_is_learnt_better(trained: Trained, two_tasks: Path, tmp_path: Path) -> None:
    ends = []
    for factor in (0.01, 100.0):
        trained(str(factor), rows=two_tasks, task_weights={"other": factor}, max_steps=12, eval_steps=12)
        ends.append(
            json.loads((tmp_path / str(factor) / "adapter" / "losses.json").read_text())["by_dataset"]["other"][-1][1]
        )
    assert ends[1] < ends[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task_weights": {"mad": 2.0}}, "did you mean 'made'"),
        ({"task_weights": {"made": 0.0}}, "above 0"),
        ({"weighting": {"temperature": 2.0}}, "weigh nothing"),
        ({"weighting": {"kind": "stm", "temperature": 2.0}}, "only flow has a temperature"),
        ({"weighting": {"kind": "flow", "max_token_nats": 2.0}}, "only stm has a limit"),
        ({"weighting": {"kind": "flow"}, "lora": {"init": "pissa"}}, "would not be the base's"),
        ({"weighting": {"kind": "flow"}, "objective": "dpo"}, "answers that are learnt as they stand"),
    ],
)
def test_what_cannot_act_is_refused(changes: dict[str, Any], reason: str, trained: Trained) -> None:
    with pytest.raises(ConfigError, match=reason):
        trained(**changes)
