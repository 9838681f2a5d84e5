"""What makes a training fit or go faster: it computes the same thing, says what was chosen, and is refused where it cannot act."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retain.errors import ConfigError
from retain.plan.memory import training_memory
from retain.plan.shapes import read_shape
from retain.train import speed
from retain.train.config import TrainConfig
from retain.train.places import latest
from retain.train.rows import Row

from .conftest import Trained, token_rows

FULL: dict[str, Any] = {
    "method": "full",
    "learning_rate": 1e-3,
}  # embeddings of 10 560 weights: enough for 8-bit blocks


def choices(folder: Path) -> str:
    return " ".join(json.loads((folder / "run" / "adapter" / "retain.json").read_text())["choices"])


def test_moments_in_8_bits_learn_as_well_and_go_on_after_a_kill(trained: Trained, tmp_path: Path) -> None:
    plain = trained("plain", **FULL)
    small = trained("a", checkpoints="shared", optimizer="adamw_8bit", save_steps=2, **FULL)
    assert small.adapter_digest != plain.adapter_digest
    assert small.target_validation_nats == pytest.approx(plain.target_validation_nats, abs=0.02)
    home = next((tmp_path / "shared").iterdir())
    last = latest(home)
    assert last is not None
    from safetensors.torch import load_file

    held = load_file(last / "state.safetensors")
    assert any(value.dtype == torch.uint8 for name, value in held.items() if name.endswith("state1"))
    last.rename(home / ".gone")
    again = trained("b", checkpoints="shared", optimizer="adamw_8bit", save_steps=2, **FULL)
    assert (again.resumed_at, again.adapter_digest) == (4, small.adapter_digest)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optimizer": "paged_adamw_8bit"}, "bitsandbytes quietly does not page"),
        ({"optimizer": "paged_adamw"}, "bitsandbytes quietly does not page"),
        ({"fused_kernels": "liger"}, "run on GPUs only"),
        ({"sharding": "fsdp"}, "there is one process only"),
    ],
)
def test_what_cannot_act_here_is_refused_with_the_reason(
    changes: dict[str, Any], reason: str, trained: Trained
) -> None:
    with pytest.raises(ConfigError, match=reason):
        trained(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "qlora"}, "cannot be split"),
        ({"lora": {"init": "pissa"}}, "from whole weights"),
        ({"objective": "orpo"}, "would not share"),
        ({"optimizer": "adamw_8bit"}, "no shared state"),
        ({"anchor": {"kind": "l2_sp"}}, "reads whole weights"),
    ],
)
def test_what_a_split_model_cannot_do_is_refused(changes: dict[str, Any], reason: str, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=reason):
        trained(sharding="fsdp", **changes)


def test_activations_are_computed_twice_only_where_memory_needs_it(trained: Trained, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    plenty = trained()
    assert "no gradient checkpointing: 0.2 GiB planned" in choices(tmp_path)
    monkeypatch.setattr(speed, "free_memory", lambda device: 2**20)
    little = trained()
    assert choices(tmp_path).startswith("gradient checkpointing: ")
    assert little.train_loss_nats == pytest.approx(plenty.train_loss_nats, abs=1e-6)
    trained(gradient_checkpointing=False)
    assert choices(tmp_path) == ""


def test_activations_are_not_computed_twice_by_a_family_that_cannot(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match="cannot compute activations twice"):
        trained("a", max_steps=1, gradient_checkpointing=True)
    monkeypatch.setattr(speed, "free_memory", lambda device: 2**20)
    assert trained("b", max_steps=1).steps == 1


def test_free_memory_is_what_the_machine_or_the_pod_has_left() -> None:
    assert 2**20 < speed.free_memory("cpu") < 2**50


def test_small_moments_and_liger_reach_the_plan_and_the_trainer(tiny_llama: Path) -> None:
    shape = read_shape(tiny_llama)
    rows = [Row(r["id"], r["part"], 1.0, np.array(r["input_ids"]), np.array(r["labels"])) for r in token_rows(4)]
    peaks = [training_memory(shape, speed.planned(TrainConfig(optimizer=name), rows, "cpu")).parts["optimizer"] for name in ("adamw", "adamw_8bit")]  # fmt: skip
    assert peaks[0] == 2 * peaks[1]
    assert speed.arguments(speed.Choices(liger=True))["use_liger_kernel"] is True
    assert speed.arguments(speed.Choices()) == {}
