"""The fast LoRA layer is peft's LoRA layer: same output, same gradients, off when peft is off."""

from pathlib import Path
from typing import Any

import pytest
import torch

from retain import models
from retain.train import lora_linear


def build(folder: Path, dropout: float = 0.0, **changes: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=dropout, target_modules="all-linear", init_lora_weights=False, **changes
    )
    return get_peft_model(models.load_model(folder, dtype="fp32"), settings).train()


def outcome(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(input_ids=torch.arange(5, 25)[None]).logits
    logits.square().mean().backward()
    return logits, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scale", [{}, {"use_rslora": True}])
def test_same_output_and_gradients_as_peft(tiny_llama: Path, scale: dict[str, bool]) -> None:
    slow, fast = build(tiny_llama, **scale), build(tiny_llama, **scale)
    assert lora_linear.quicken(fast) == 14
    (logits, gradients), (fast_logits, fast_gradients) = outcome(slow), outcome(fast)
    torch.testing.assert_close(fast_logits, logits, atol=1e-6, rtol=1e-5)
    assert gradients.keys() == fast_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(fast_gradients[name], gradient, atol=1e-7, rtol=1e-4)


def test_off_means_the_base(tiny_llama: Path) -> None:
    ids = torch.arange(5, 25)[None]
    base, model = models.load_model(tiny_llama, dtype="fp32"), build(tiny_llama)
    lora_linear.quicken(model)
    assert not torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)


def test_dropout_drops_its_share_keeps_the_mean_and_rests_in_evaluation(tiny_llama: Path) -> None:
    ones = torch.ones(400, 100)
    kept = lora_linear._mask(ones, 0.25)
    assert (kept == 0).float().mean() == pytest.approx(0.25, abs=0.01)
    assert kept.mean() == pytest.approx(1, abs=0.02)
    model, ids = build(tiny_llama, dropout=0.5), torch.arange(5, 25)[None]
    lora_linear.quicken(model)
    assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    model.eval()
    assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)


def test_variants_keep_pefts_forward(tiny_llama: Path) -> None:
    assert lora_linear.quicken(build(tiny_llama, use_dora=True)) == 0
