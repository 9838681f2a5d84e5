"""Families of changes; an intruding direction that was planted is found and weakened, and the result still merges."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import models
from retain.artifacts import read_json
from retain.errors import ConfigError
from retain.merge.config import MergeConfig
from retain.merge.work import merge
from retain.repair.candidates import family
from retain.repair.config import RepairConfig

MERGE = MergeConfig(strength=0.8, probe_rows=1, probe_tokens=8)
LAYER = "model.layers.0.self_attn.q_proj"


def test_members_are_weaker_merges_of_what_was_gated(tiny_llama: Path, noisy_adapter: Callable[..., Path], tmp_path: Path) -> None:  # fmt: skip
    adapter = noisy_adapter(tmp_path / "a", tiny_llama)
    whole = family("strength", RepairConfig(), MERGE, tiny_llama, adapter, tmp_path / "x")
    deep = family("depth", RepairConfig(first_layer=0.25), MERGE, tiny_llama, adapter, tmp_path / "x")
    assert (whole.at(0.5).strength, whole.at(0.5).first_layer) == (0.4, 1.0)
    assert (deep.at(0.5).strength, deep.at(0.5).first_layer) == (0.4, 0.25)
    assert len({str(f.key(s)) for f in (whole, deep) for s in (1.0, 0.5)}) == 4
    assert not (tmp_path / "x").exists()


def weight(folder: Path) -> Any:
    return models.load_model(folder, dtype="fp32").get_submodule(LAYER).weight.detach()


def _planted(folder: Path, base: Path, noisy_adapter: Callable[..., Path]) -> Path:
    """A rank-one change whose left direction is a mean of many of the base's, so that it resembles none, and is strong."""
    import torch
    from safetensors.torch import load_file, save_file

    adapter = noisy_adapter(folder, base, target_modules=["q_proj"], layers_to_transform=[0], r=2, lora_alpha=2)
    u, s, _ = torch.linalg.svd(weight(base))
    planted = load_file(adapter / "adapter_model.safetensors")
    b, a = (next(n for n in planted if n.endswith(f"lora_{side}.weight")) for side in "BA")
    planted[b], planted[a] = torch.zeros_like(planted[b]), torch.zeros_like(planted[a])
    planted[b][:, 0] = u.sum(1) / u.shape[1] ** 0.5
    planted[a][0] = torch.randn(planted[a].shape[1], generator=torch.Generator().manual_seed(1))
    planted[a][0] *= 3 * s[0] / planted[a][0].norm()
    save_file({name: tensor.contiguous() for name, tensor in planted.items()}, adapter / "adapter_model.safetensors")
    return adapter


def test_an_intruding_direction_is_weakened_and_the_new_adapter_merges_with_its_proof(
    tiny_llama: Path, noisy_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = _planted(tmp_path / "a", tiny_llama, noisy_adapter)
    sizes = {}
    for share in (0.9, 0.2):
        config = RepairConfig(intruder_share=share)
        made = family("intruders", config, MERGE, tiny_llama, adapter, tmp_path / f"less-{share}")
        result = merge(made.at(1.0), tiny_llama, [(made.adapter, 1.0)], tmp_path / f"model-{share}")
        sizes[share] = float((weight(tmp_path / f"model-{share}") - weight(tiny_llama)).norm())
        assert result.logit_difference < 1e-3
    assert sizes[0.2] < 0.5 * sizes[0.9]
    card = read_json(tmp_path / "model-0.2" / "manifest.json", schema="retain.manifest/1")
    assert card["adapters"][0]["training"]["intruders"]["share"] == 0.2
    kept = (tmp_path / "less-0.2" / "adapter_model.safetensors").stat().st_mtime_ns
    family("intruders", RepairConfig(intruder_share=0.2), MERGE, tiny_llama, adapter, tmp_path / "less-0.2")
    assert (tmp_path / "less-0.2" / "adapter_model.safetensors").stat().st_mtime_ns == kept  # found again
    for knob in ({"intruder_cosine": 0.01}, {"intruder_directions": 1}):
        other = family("intruders", RepairConfig(intruder_share=0.2, **knob), MERGE, tiny_llama, adapter, tmp_path / "less-0.2")  # fmt: skip
        assert read_json(other.adapter / "retain.json", schema="retain.adapter/1")["intruders"] != card["adapters"][0]["training"]["intruders"]  # fmt: skip


def _tuned_with_an_intruder(folder: Path, base: Path) -> Path:
    """All weights, one of them with the strong direction that a LoRA would have been given."""
    import torch

    model = models.load_model(base, dtype="fp32")
    module = model.get_submodule(LAYER)
    u, s, _ = torch.linalg.svd(module.weight.detach())
    right = torch.randn(module.weight.shape[1], generator=torch.Generator().manual_seed(1))
    module.weight.data += torch.outer(u.sum(1) / u.shape[1] ** 0.5, 3 * s[0] * right / right.norm())
    model.save_pretrained(str(folder))
    return folder


def test_an_intruding_direction_in_changed_weights_is_weakened_and_all_else_is_left_as_it_is(tiny_llama: Path, tmp_path: Path) -> None:  # fmt: skip
    from safetensors.torch import load_file

    adapter = _tuned_with_an_intruder(tmp_path / "a", tiny_llama)
    made = family("intruders", RepairConfig(intruder_share=0.2), MERGE, tiny_llama, adapter, tmp_path / "less")
    tuned, less = (load_file(folder / "model.safetensors") for folder in (adapter, made.adapter))
    assert set(tuned) == set(less)
    assert [name for name in tuned if not tuned[name].equal(less[name])] == [f"{LAYER}.weight"]
    result = merge(made.at(1.0), tiny_llama, [(made.adapter, 1.0)], tmp_path / "model")
    assert result.logit_difference < 1e-3
    before, after = (weight(folder) - weight(tiny_llama) for folder in (adapter, tmp_path / "model"))
    assert after.norm() < 0.5 * MERGE.strength * before.norm()
    assert read_json(made.adapter / "retain.json", schema="retain.adapter/1")["intruders"]["share"] == 0.2


def test_where_nothing_intrudes_in_changed_weights_the_method_is_not_tried(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no direction of this change intrudes"):
        family("intruders", RepairConfig(), MERGE, tiny_llama, tiny_llama, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_intruders_are_looked_for_in_a_plain_lora_or_in_changed_weights(tiny_llama: Path, noisy_adapter: Callable[..., Path], tmp_path: Path) -> None:  # fmt: skip
    for settings in ({"use_dora": True}, {"modules_to_save": ["lm_head"]}):
        adapter = noisy_adapter(tmp_path / str(len(settings)) / "a", tiny_llama, **settings)
        with pytest.raises(ConfigError, match="plain LoRA or in changed weights"):
            family("intruders", RepairConfig(), MERGE, tiny_llama, adapter, tmp_path / "x")
