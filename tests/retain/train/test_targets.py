"""Presets of target modules mean the same layers in every family, split or fused, with or without an encoder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from retain import models
from retain.train import targets

from .conftest import Trained
from .families import PAIRS

# family → what each preset chooses, as the last parts of the names.
CHOSEN = {
    "llama": {"mlp-only": "down_proj gate_proj up_proj", "attention-only": "k_proj o_proj q_proj v_proj", "attention-qv": "q_proj v_proj"},
    "gpt2": {"mlp-only": "c_fc c_proj", "attention-only": "c_attn c_proj", "attention-qv": "c_attn"},
    "t5": {"mlp-only": "wi wo", "attention-only": "k o q v", "attention-qv": "q v", "decoder-attention": "k o q v"},
    "bart": {"mlp-only": "fc1 fc2", "attention-only": "k_proj out_proj q_proj v_proj", "attention-qv": "q_proj v_proj", "decoder-attention": "k_proj out_proj q_proj v_proj"},
}  # fmt: skip


@pytest.mark.parametrize("name", CHOSEN)
def test_a_preset_chooses_its_layers_and_no_others(name: str, family: Callable[[str], Path]) -> None:
    model = models.load_model(family(name), dtype="fp32", seq2seq=name in PAIRS)
    for preset, leaves in CHOSEN[name].items():
        sites = targets.matching(model, targets.choose(model, preset))
        assert " ".join(sorted({site.leaf for site in sites})) == leaves
        if preset != "decoder-attention":
            assert {site.role for site in sites} == {"mlp" if preset == "mlp-only" else "attention"}
    every = targets.matching(model, targets.choose(model, "all-linear"))
    assert len(every) == len(targets.sites(model))


@pytest.mark.parametrize("name", PAIRS)
def test_decoder_attention_is_self_and_cross_attention_of_the_decoder(name: str, family: Callable[[str], Path]) -> None:  # fmt: skip
    model = models.load_model(family(name), dtype="fp32", seq2seq=True)
    chosen = [site.name for site in targets.matching(model, targets.choose(model, "decoder-attention"))]
    assert len(chosen) == 3 * 2 * 4  # blocks, kinds of attention, projections
    assert all("decoder." in name for name in chosen)


def test_the_encoder_may_have_a_smaller_rank(trained: Trained, family: Callable[[str], Path], pairs: Path, tmp_path: Path) -> None:  # fmt: skip
    from safetensors.torch import load_file

    trained(model=family("t5"), rows=pairs, max_steps=1, lora={"r": 8, "target_modules": "attention-only", "rank_pattern": {"encoder.*": 4}})  # fmt: skip
    weights = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    ranks = {("encoder." in name, tensor.shape[0]) for name, tensor in weights.items() if "lora_A" in name}
    assert ranks == {(True, 4), (False, 8)}
