"""Packed linear layers: the same numbers, on every family, and weights that change are packed again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from retain.score.config import ScoreConfig
from retain.score.packed import PackedLinear, pack

from .test_forward import FAMILIES, build

IDS = torch.arange(3, 60)[None]


def count(model: Any, kind: type) -> int:
    return sum(type(module) is kind for module in model.modules())


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "mamba"])
def test_numbers_are_those_of_the_plain_layers(family: str) -> None:
    model = build(family)
    layers = count(model, nn.Linear)
    with torch.inference_mode():
        before = model(input_ids=IDS).logits
        pack(model, 64)
        assert torch.allclose(model(input_ids=IDS).logits, before, atol=1e-5)
    assert count(model, PackedLinear) == layers > 0
    assert count(model, nn.Linear) == 0


def test_the_weights_go_unless_they_are_kept() -> None:
    one, two = build("llama"), build("llama")
    pack(one, 64)
    pack(two, 64, keep=True)
    size = [sum(p.numel() for p in model.parameters()) for model in (one, two, build("llama"))]
    assert size[0] < size[1] == size[2]
    assert one.get_input_embeddings().weight.numel() > 0


def test_changed_weights_are_packed_again() -> None:
    model = build("llama")
    pack(model, 64, keep=True)
    with torch.inference_mode():
        before = model(input_ids=IDS).logits
        model.model.layers[0].mlp.up_proj.weight *= 2
        pack(model, 64, keep=True)
        after = model(input_ids=IDS).logits
    plain = build("llama")
    with torch.inference_mode():
        plain.model.layers[0].mlp.up_proj.weight *= 2
        assert torch.allclose(after, plain(input_ids=IDS).logits, atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)


def test_the_engine_packs_what_it_loads(tiny_llama: Path) -> None:
    from retain.score import place
    from retain.score.run import load_engine

    config = ScoreConfig(dtype="fp32", device="cpu")
    engine = load_engine(config, tiny_llama, place.resolve(config))
    assert count(engine.model, PackedLinear) > 0
