"""One small random model of every family the methods are tried on."""

from pathlib import Path
from typing import Any

SIZE: dict[str, Any] = {"vocab_size": 330, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SIZE),
    "qwen2": ("Qwen2", SIZE),
    "mistral": ("Mistral", SIZE | {"sliding_window": 8}),
    "gemma2": ("Gemma2", SIZE | {"head_dim": 8, "sliding_window": 8}),
    "gemma3": ("Gemma3", SIZE | {"head_dim": 8, "sliding_window": 8}),
    "gpt2": ("GPT2", {"vocab_size": 330, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2, "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0}),
    "t5": ("T5", {"vocab_size": 330, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0, "dropout_rate": 0.0}),
    "bart": ("Bart", {"vocab_size": 330, "d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "dropout": 0.0}),
}  # fmt: skip
PAIRS = ("t5", "bart")


def build(family: str, folder: Path) -> Path:
    import torch
    import transformers

    name, shape = FAMILIES[family]
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")(**shape)
    torch.manual_seed(0)
    end = "ForConditionalGeneration" if family in PAIRS else "LMHeadModel" if family == "gpt2" else "ForCausalLM"
    getattr(transformers, name + end)(config).save_pretrained(str(folder))
    return folder
