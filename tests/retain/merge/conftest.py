"""Tiny bases of three families, and adapters whose B is not zero."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Make = Callable[..., Path]


def build_base(
    folder: Path, family: str = "llama", *, dtype: str = "float32", shard: str = "5GB", **changes: Any
) -> Path:
    import torch
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    torch.manual_seed(1)
    kinds: dict[str, Any] = {
        "llama": (LlamaForCausalLM, LlamaConfig, {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}),
        "gpt2": (GPT2LMHeadModel, GPT2Config, {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 1}),
        "t5": (T5ForConditionalGeneration, T5Config, {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}),
    }  # fmt: skip
    model_class, config_class, shape = kinds[family]
    model = model_class(config_class(**{**shape, **changes})).to(getattr(torch, dtype))
    model.save_pretrained(str(folder), max_shard_size=shard)
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def build_adapter(folder: Path, base: Path, *, seed: int = 0, size: float = 0.05, **settings: Any) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model

    model = load(base)
    model = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": "all-linear", **settings}))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            parameter.data.add_(torch.randn_like(parameter) * size)
    model.save_pretrained(str(folder))
    return folder


def load(folder: Path) -> Any:
    import json

    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    seq2seq = json.loads((folder / "config.json").read_text()).get("is_encoder_decoder", False)
    kind = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    return kind.from_pretrained(str(folder), dtype="auto").eval()


@pytest.fixture
def base(tmp_path: Path) -> Make:
    """base(family, …) → its folder."""
    return lambda family="llama", **more: build_base(tmp_path / f"base-{len(list(tmp_path.iterdir()))}", family, **more)


@pytest.fixture
def adapter(tmp_path: Path) -> Make:
    """adapter(base, …) → its folder."""
    return lambda base, **more: build_adapter(tmp_path / f"adapter-{len(list(tmp_path.iterdir()))}", base, **more)


@pytest.fixture
def loaded() -> Callable[[Path], Any]:
    return load
