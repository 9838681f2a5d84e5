"""What the base says of replay rows: computed for many steps at once, the same as for each alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from retain import models
from retain.train import attention, batches
from retain.train.loss import Head
from retain.train.reference import References, adapter_off
from retain.train.rows import Row, read_mixture

from .conftest import Trained


@pytest.fixture
def rows(mixture: Path) -> list[Row]:
    return read_mixture(mixture, longest=512).train


@pytest.fixture
def tuned(tiny_llama: Path) -> Any:
    """A model with dropout and an adapter that has learnt something."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = models.load_model(tiny_llama, dtype="fp32", device="cpu")
    model.config.attention_dropout = 0.5
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False, lora_dropout=0.5))
    return model.train()


def counted(head: Head) -> list[int]:
    """Tokens of every forward pass from now on."""
    seen: list[int] = []
    hidden = head.hidden
    head.hidden = lambda model, micro: (seen.append(micro["tokens"]), hidden(model, micro))[1]  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("padded", [False, True])
def test_a_block_of_steps_gives_what_each_step_alone_gives(rows: list[Row], tuned: Any, padded: bool) -> None:
    if not padded:
        attention.register()
        tuned.set_attn_implementation(attention.PACKED)
    order = batches.plan(len(rows), batch_rows=3, epochs=2, max_steps=0, seed=0)
    steps = batches.Steps(rows, order, batches.Shape(60, padded))
    head = Head(tuned.get_base_model())
    with_replay = [n for n in range(len(steps)) if steps.replayed(n, 0)]
    found, passes = References(steps, head, tuned, "cpu"), counted(head)
    together = [found.of(n) for n in range(len(steps))]
    assert 1 < len(passes) < len(with_replay), "several blocks, and fewer than steps"
    assert tuned.training
    for number, states in enumerate(together):
        own = steps.replayed(number, 0)
        assert len(states) == sum(row.supervised for row in own)
        if own:
            with adapter_off(tuned):
                direct = [head.hidden(tuned, batches.collate([row], padded=padded, pad=0)) for row in own]
            torch.testing.assert_close(states, torch.cat(direct), atol=1e-5, rtol=0)
        again = References(steps, head, tuned, "cpu").of(number)
        assert torch.equal(again, states), "a resumed training computes the same numbers"


def test_logits_are_not_kept_ahead(rows: list[Row], tuned: Any) -> None:
    order = batches.plan(len(rows), batch_rows=3, epochs=1, max_steps=0, seed=0)
    steps = batches.Steps(rows, order, batches.Shape(1000, True))
    head = Head(tuned.get_base_model())
    head.restore()
    head.fused = False
    found, passes = References(steps, head, tuned, "cpu"), counted(head)
    found.of(0)
    assert len(passes) <= 1
    assert list(found.held) == [0]


def test_processes_make_the_same_passes(rows: list[Row], tuned: Any) -> None:
    """A split model computes on all of them at once: one without replay rows takes part with a row that counts nothing."""
    order = batches.plan(len(rows), batch_rows=3, epochs=2, max_steps=0, seed=0)
    counts = []
    for rank in (0, 1, 2):
        steps = batches.Steps(rows, order, batches.Shape(40, True), rank=rank, world=3, even=True)
        head = Head(tuned.get_base_model())
        found, passes = References(steps, head, tuned, "cpu"), counted(head)
        for number in range(len(steps)):
            found.of(number)
        counts.append(len(passes))
        head.restore()
    assert counts[0] == counts[1] == counts[2] > 1


def test_how_a_step_is_cut_changes_no_divergence(trained: Trained) -> None:
    seen: dict[int, list[float]] = {20: [], 1000: []}
    for most, values in seen.items():
        log = lambda metrics, _, into=values: into.append(metrics.get("kl_to_base_nats", 0.0))  # noqa: E731
        trained(str(most), kl={"beta": 0.1}, micro_tokens=most, max_steps=12, learning_rate=5e-2, log=log)
    assert max(seen[20]) > 1e-3
    assert seen[20] == pytest.approx(seen[1000], rel=1e-2, abs=1e-6)
