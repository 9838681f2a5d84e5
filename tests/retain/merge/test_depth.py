"""Strength that grows with depth (LiNeS): by formula, in the files, and proven by peft's own forward pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain.merge import depth
from retain.merge.config import MergeConfig
from retain.merge.work import merge

Make = Callable[..., Path]
QUICK = {"probe_rows": 2, "probe_tokens": 8}


def test_the_factor_rises_linearly_from_the_first_layer_to_the_last() -> None:
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(5)]
    layers = depth.stacks([*names, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
    assert layers == {"model.layers": 5}
    assert [depth.factor(name, layers, 0.2) for name in names] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert [depth.factor(name, layers, 0.2) for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")] == [0.2, 1.0, 1.0]  # fmt: skip
    assert depth.factor("model.layers.2", layers, 0.0) == 0.5  # a module's name
    assert {depth.factor(name, layers, 1.0) for name in names} == {1.0}


def test_encoder_and_decoder_have_their_own_depth() -> None:
    layers = depth.stacks(["encoder.block.1.layer.0.x.weight", "decoder.block.3.layer.2.x.weight"])
    assert layers == {"encoder.block": 2, "decoder.block": 4}
    assert depth.factor("encoder.block.1.layer.0.x.weight", layers, 0.0) == 1.0
    assert depth.factor("decoder.block.1.layer.2.x.weight", layers, 0.0) == pytest.approx(1 / 3)


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"modules_to_save": ["embed_tokens", "lm_head"]}], ids=str)  # fmt: skip
def test_an_adapter_merged_by_depth_is_what_peft_computes(settings: dict[str, Any], base: Make, adapter: Make, tmp_path: Path) -> None:  # fmt: skip
    folder = base(num_hidden_layers=3)
    tuned = adapter(folder, **settings)
    whole = merge(MergeConfig(**QUICK), folder, [(tuned, 1.0)], tmp_path / "whole")
    result = merge(MergeConfig(first_layer=0.25, strength=0.8, **QUICK), folder, [(tuned, 1.0)], tmp_path / "model")
    assert result.logit_difference < 1e-5 < result.adapter_effect
    assert result.digest != whole.digest


def test_changed_weights_by_depth_keep_the_first_layer_of_the_base(base: Make, loaded: Callable[[Path], Any], tmp_path: Path) -> None:  # fmt: skip
    import torch

    folder = base(num_hidden_layers=3)
    model, start = loaded(folder), loaded(folder).state_dict()
    moved = {name: t + 0.01 * torch.randn_like(t) for name, t in model.state_dict().items()}
    model.save_pretrained(str(tmp_path / "tuned"), state_dict=moved)
    merge(MergeConfig(first_layer=0.0, **QUICK), folder, [(tmp_path / "tuned", 1.0)], tmp_path / "model")
    layers = depth.stacks(start)
    for name, tensor in loaded(tmp_path / "model").state_dict().items():
        wanted = start[name] + depth.factor(name, layers, 0.0) * (moved[name] - start[name])
        torch.testing.assert_close(tensor, wanted, rtol=1e-6, atol=1e-7)
    assert torch.equal(loaded(tmp_path / "model").model.embed_tokens.weight, start["model.embed_tokens.weight"])
