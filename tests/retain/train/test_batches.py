"""Batches: every row once an epoch, the same split everywhere, packed loss = padded loss (T4)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from retain import artifacts, models
from retain.errors import DataRefused
from retain.train import attention, batches
from retain.train.loss import Head
from retain.train.rows import Row, read_mixture, total_weight

from .conftest import token_rows


@pytest.fixture
def rows(mixture: Path) -> list[Row]:
    return read_mixture(mixture, longest=512).train


def test_an_epoch_takes_every_row_once_and_two_epochs_differ_in_order() -> None:
    steps = batches.plan(10, batch_rows=4, epochs=2, max_steps=0, seed=1)
    half = len(steps) // 2
    first, second = np.concatenate(steps[:half]), np.concatenate(steps[half:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)
    assert {len(step) for step in steps} <= {5, 4, 3}


def test_the_seed_decides_the_order() -> None:
    one, two, again = (np.concatenate(batches.plan(10, batch_rows=2, epochs=1, max_steps=0, seed=s)) for s in (1, 2, 1))
    assert list(one) == list(again) != list(two)


def test_the_ranks_share_a_step_and_agree_on_its_weight(rows: list[Row]) -> None:
    order = batches.plan(len(rows), batch_rows=8, epochs=1, max_steps=0, seed=0)
    whole = batches.Steps(rows, order, batches.Shape(64, False))[0]
    parts = [batches.Steps(rows, order, batches.Shape(64, False), rank=r, world=2)[0] for r in (0, 1)]
    tokens = [sum(m["tokens"] for m in step["micros"]) for step in (whole, *parts)]
    assert tokens[0] == tokens[1] + tokens[2]
    assert whole["total_weight"] == parts[0]["total_weight"] == parts[1]["total_weight"]


@pytest.mark.parametrize("most", [16, 40, 1000])
def test_packed_loss_is_unpacked_loss(rows: list[Row], tiny_llama: Path, most: int) -> None:
    """T4: to 1e-5 in fp32, for the loss and for the gradients."""
    found = []
    for padded, tokens in ((True, 1), (False, most)):  # padded with one row at a time: the plain reference
        model = models.load_model(tiny_llama, dtype="fp32")
        if not padded:
            attention.register()
            model.set_attn_implementation(attention.PACKED)
        model.requires_grad_(True)
        head = Head(model)
        loss = sum(head.loss(model, micro) for micro in batches.as_batches(rows, batches.Shape(tokens, padded)))
        (loss / total_weight(rows)).backward()
        found.append(
            (
                float(loss.detach()) / total_weight(rows),
                torch.cat([p.grad.flatten() for p in model.parameters()]),
            )
        )
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", ["conv", "linear_attention", "mamba", "chunked_attention"])
def test_layers_that_run_on_into_the_next_row_are_not_packed(kind: str, tiny_llama: Path) -> None:
    """LFM2's convolutions, MiniMax's and Llama 4's attention (packed, they were off by up to .2 in a logit of a tiny model)."""
    model = models.load_model(tiny_llama, dtype="fp32")
    assert attention.can_pack(model)
    model.config.layer_types = [kind, "full_attention"]
    assert not attention.can_pack(model)
    model.config.layer_types = ["sliding_attention", "full_attention"]
    assert attention.can_pack(model)


def test_the_loss_is_transformers_own_loss(rows: list[Row], tiny_llama: Path) -> None:
    model = models.load_model(tiny_llama, dtype="fp32")
    row = rows[0]
    ids, labels = (torch.tensor(np.array(x), dtype=torch.long)[None] for x in (row.input_ids, row.labels))
    expected = float(model(input_ids=ids, labels=labels).loss.detach())
    micro = batches.collate([row], padded=True, pad=0)
    assert float(Head(model).loss(model, micro).detach()) / total_weight([row]) == pytest.approx(expected, abs=1e-6)


def test_packing_wastes_nothing_and_padding_little(rows: list[Row]) -> None:
    packed = list(batches.as_batches(rows, batches.Shape(100, False)))
    padded = list(batches.as_batches(rows, batches.Shape(100, True)))
    real = sum(len(row.input_ids) for row in rows)
    assert sum(m["input_ids"].numel() for m in packed) == real
    assert real <= sum(m["input_ids"].numel() for m in padded) < 1.25 * real
    assert all(m["input_ids"].numel() <= 100 for m in packed + padded)


def test_a_row_without_a_supervised_token_is_refused_by_name(tmp_path: Path) -> None:
    rows = list(token_rows())
    rows[5]["labels"] = [artifacts.IGNORED_LABEL] * len(rows[5]["labels"])
    artifacts.write_rows(tmp_path, "retain.mixture/1", rows)
    with pytest.raises(DataRefused, match="row-5"):
        read_mixture(tmp_path, longest=512)


def test_a_row_longer_than_the_model_is_refused_by_name(mixture: Path) -> None:
    with pytest.raises(DataRefused, match="longer than the model"):
        read_mixture(mixture, longest=10)


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    artifacts.write_rows(tmp_path, "retain.mixture/1", [row | {"split": "validation"} for row in token_rows()])
    with pytest.raises(DataRefused, match="no row to train on"):
        read_mixture(tmp_path, longest=512)


def test_the_divergence_is_torchs_own_and_pulls_the_tuned_side_only(tiny_llama: Path) -> None:
    head = Head(models.load_model(tiny_llama, dtype="fp32"))
    torch.manual_seed(0)
    base, tuned = (torch.randn(9, 32, requires_grad=True) for _ in range(2))
    weights = torch.rand(9)
    loss = head.divergence(base, tuned, weights)
    loss.backward()
    got = tuned.grad
    assert got is not None
    assert base.grad is None
    tuned.grad = None
    p, q = ((x @ head.module.weight.T).log_softmax(-1) for x in (base, tuned))
    expected = ((p.exp() * (p - q)).sum(-1) * weights).sum()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(got, tuned.grad)
