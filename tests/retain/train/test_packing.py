"""Rows lie side by side only where the model, as it is, keeps them apart; the kernel for GPUs is tried without one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from retain import models
from retain.errors import ConfigError
from retain.train import attention, load, packing
from retain.train.config import TrainConfig

from .conftest import Trained


class AlongTheTokens(torch.nn.Module):
    """An MLP with a causal convolution over the last four tokens before it, as nobody's configuration says."""

    def __init__(self, inner: torch.nn.Module, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = inner
        self.conv = torch.nn.Conv1d(width, width, 4, padding=3, groups=width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        out: torch.Tensor = self.inner(x + mixed)
        return out


def hybrid(folder: Path, **settings: Any) -> Any:
    model = LOAD(folder, **settings)
    layer = model.model.layers[0]
    layer.mlp = AlongTheTokens(layer.mlp, 32).to(model.dtype)
    return model


LOAD = models.load_model


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_llama_is_packed(dtype: str, tiny_llama: Path) -> None:
    model = models.load_model(tiny_llama, dtype=dtype)
    assert load.packs(TrainConfig(), model) == (True, "")
    assert model.config._attn_implementation == attention.PACKED


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_convolution_that_no_configuration_tells_of_is_found(dtype: str, tiny_llama: Path) -> None:
    model = hybrid(tiny_llama, dtype=dtype)
    own = model.config._attn_implementation
    assert attention.can_pack(model)
    packs, said = load.packs(TrainConfig(), model)
    assert not packs
    assert "rows side by side see each other" in said
    assert model.config._attn_implementation == own
    with pytest.raises(ConfigError, match="see each other"):
        load.packs(TrainConfig(packing="packed"), model)


def test_a_training_of_such_a_model_is_padded_and_says_so(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(models, "load_model", hybrid)
    result, padded = (trained(name, max_steps=2, learning_rate=1e-4, packing=name) for name in ("auto", "padded"))
    assert result.adapter_digest == padded.adapter_digest
    assert "padded, not packed" in result.warnings[0]
    assert "padded, not packed" in capsys.readouterr().out
    assert result.warnings[0] in json.loads((tmp_path / "auto/adapter/retain.json").read_text())["warnings"]
    assert padded.warnings == ()


@pytest.mark.parametrize(
    ("name", "changes", "packs"),
    [
        ("GptOss", {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2}, False),  # attention sinks
        ("Mixtral", {"num_local_experts": 4}, True),
        ("DeepseekV3", {"num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "first_k_dense_replace": 1}, True),  # values narrower than keys
    ],
)  # fmt: skip
def test_families_beside_llama(name: str, changes: dict[str, Any], packs: bool) -> None:
    import transformers

    from .families import SIZE

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZE, "max_position_embeddings": 4096, **changes})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    assert packing.settle(model)[0] is packs


def test_a_mask_of_the_model_s_own_is_not_passed_over() -> None:
    query = torch.randn(1, 2, 17, 8)
    for attend in (attention.packed_attention, attention.varlen_attention):
        with pytest.raises(ConfigError, match="cannot work on packed rows"):
            attend(None, query, query, query, torch.ones(1, 1, 17, 17), scaling=0.3, lengths=[6, 11])


def test_the_kernel_for_gpus_is_asked_for_what_it_takes() -> None:
    """Shapes, types and devices of FlashAttention's varlen call, forward and backward, on tensors without numbers."""
    query, key, value = (torch.empty(1, heads, 17, 16, device="meta", dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2))  # fmt: skip
    out, _ = attention.varlen_attention(None, query, key, value, None, scaling=0.25, sliding_window=8, lengths=[6, 11])
    assert (out.shape, out.device.type, out.dtype) == ((1, 17, 4, 16), "meta", torch.bfloat16)
    out.sum().backward()
    for tensor in (query, key, value):
        assert tensor.grad is not None
        assert tensor.grad.shape == tensor.shape


def test_what_the_kernel_for_gpus_cannot_do_goes_row_by_row() -> None:
    query = torch.randn(1, 2, 17, 12)  # a head's width that 8 does not divide
    one, two = (f(None, query, query, query, None, scaling=0.3, lengths=[6, 11])[0] for f in (attention.varlen_attention, attention.packed_attention))  # fmt: skip
    assert torch.equal(one, two)
    assert attention.kernels(torch.nn.Linear(2, 2)) == (attention.PACKED,)
