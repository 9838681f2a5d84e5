"""Every method on every family of models: it trains, or it is refused with the reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retain import artifacts
from retain.errors import ConfigError, RetainError
from retain.train.config import METHOD_RATES

from . import methods_page
from .conftest import Trained, token_rows
from .methods_page import REFUSED

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
    import transformers

    name, shape = FAMILIES[family]
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")(**shape)
    torch.manual_seed(0)
    end = "ForConditionalGeneration" if family in PAIRS else "LMHeadModel" if family == "gpt2" else "ForCausalLM"
    getattr(transformers, name + end)(config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        return made.setdefault(
            name, build(name, tmp_path_factory.mktemp(name) / "model") if name not in made else made[name]
        )

    return get


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources and targets for encoder-decoders."""
    folder = tmp_path_factory.mktemp("pairs") / "mixture"
    rows = [row | {"labels": [i + 1 for i in row["input_ids"][: 3 + n % 5]]} for n, row in enumerate(token_rows())]
    artifacts.write_rows(folder, "retain.mixture/1", rows)
    return folder


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class indices for a probe."""
    folder = tmp_path_factory.mktemp("classes") / "mixture"
    rows = [row | {"labels": [i % 2], "part": "target"} for i, row in enumerate(token_rows())]
    artifacts.write_rows(folder, "retain.mixture/1", rows, options={"class_names": ["even", "odd"]})
    return folder


DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHOD_RATES)
def test_method_on_family(method: str, name: str, device: str, trained: Trained, family: Callable[[str], Path], mixture: Path, pairs: Path, classes: Path) -> None:  # fmt: skip
    rows = classes if method == "probe" else pairs if name in PAIRS else mixture

    def run() -> Any:
        return trained(model=family(name), rows=rows, device=device, method=method, max_steps=2, eval_steps=2, warmup_ratio=0, oft={"block_size": 16} if method == "oft" else {}, lora={}, learning_rate=1e-2)  # fmt: skip

    if (method, name) in REFUSED:
        with pytest.raises(RetainError, match=REFUSED[method, name]):
            run()
        return
    result = run()
    assert result.target_validation_nats != result.base_target_validation_nats
    assert result.trainable_parameters > 0


def test_the_low_rank_methods_cannot_train_a_knob_they_do_not_read(trained: Trained) -> None:
    with pytest.raises(ConfigError, match="does not read these settings: lora"):
        trained(method="full", lora={"r": 2})


def test_the_page_says_what_the_code_does(tiny_llama: Path) -> None:
    assert tuple(FAMILIES) == methods_page.FAMILIES
    assert methods_page.PAGE.read_text(encoding="utf-8") == methods_page.render(methods_page.answers(tiny_llama))
