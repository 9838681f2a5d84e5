"""Grouped attention under a tree's mask: the numbers of plain scoring, and only where it fits."""

from typing import Any

import pytest
import torch

from retain.score import attention
from retain.score.forward import Scorer

from .test_forward import build, by_hand, requests


@pytest.mark.parametrize("keys", [0, 1 << 20])
@pytest.mark.parametrize("shared", [0, 20])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_numbers_are_those_of_one_plain_pass_per_choice(family: str, shared: int, keys: int, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Both ways: products, and the fused kernel over grouped heads."""
    monkeypatch.setattr(attention, "FP32_KEYS", keys)
    model, asked = build(family), requests(shared=shared)
    wanted = [by_hand(model, request) for request in asked]
    attention.use(model)
    assert model.config._attn_implementation == attention.NAME
    found = Scorer(model, max_length=256, budget=256).score(asked)
    for one, two in zip(found, wanted, strict=True):
        assert one == (pytest.approx(two[0], abs=1e-3), two[1])


def test_bf16_stays_as_near_to_fp32_as_the_fused_kernel() -> None:
    asked = requests()
    exact = [value for value, _ in Scorer(build("llama"), max_length=256, budget=256).score(asked)]

    def far(model: Any) -> float:
        got = Scorer(model, max_length=256, budget=256).score(asked)
        return sum(abs(value - right) for (value, _), right in zip(got, exact, strict=True)) / len(exact)

    fused, grouped = build("llama").to(torch.bfloat16), build("llama").to(torch.bfloat16)
    attention.use(grouped)
    assert far(grouped) < 2 * far(fused) + 1e-3


def test_a_model_with_attention_of_its_own_keeps_it() -> None:
    model = build("gemma2")
    attention.use(model)
    assert model.config._attn_implementation == "eager"
