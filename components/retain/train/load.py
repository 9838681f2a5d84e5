"""The base of a training: as it is, or in 4 bits; packed attention where model and method allow it."""

from pathlib import Path
from typing import Any

from retain import models
from retain.errors import ConfigError
from retain.train import attention
from retain.train.config import SOFT_PROMPTS, TrainConfig


def load_base(config: TrainConfig, folder: Path, device: str) -> Any:
    """The model in the precision of the run, in eval mode."""
    models.check_folder(folder)
    pairs = models.is_encoder_decoder(folder)
    if config.method == "qlora":
        return _quantised(config, folder, device, pairs)
    if config.sharding == "none":
        return models.load_model(folder, dtype=config.dtype, device=device, seq2seq=pairs)
    dtype = "bf16" if models.torch_dtype(config.dtype, device).itemsize == 2 else "fp32"  # of the GPU, not of the host
    return models.load_model(folder, dtype=dtype, seq2seq=pairs)


def _quantised(config: TrainConfig, folder: Path, device: str, pairs: bool) -> Any:
    """NF4 with double quantisation through bitsandbytes; on a CPU it runs at about a quarter of the speed."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BitsAndBytesConfig

    dtype = models.torch_dtype(config.dtype, device)
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=config.quant.kind, bnb_4bit_use_double_quant=config.quant.double, bnb_4bit_compute_dtype=dtype)  # fmt: skip
    loader = AutoModelForSeq2SeqLM if pairs else AutoModelForCausalLM
    with models.opening(folder):
        model = loader.from_pretrained(str(folder), quantization_config=settings, dtype=dtype, device_map={"": device}, local_files_only=True, use_safetensors=True, **models.NO_CODE)  # fmt: skip
    for module in model.modules():
        if hasattr(
            module, "support_avx512bf16_for_cpu"
        ):  # an inference-only packing that rounds the scales and cannot be trained through
            module.support_avx512bf16_for_cpu = False
    _leave_the_file(model)
    return model.requires_grad_(False).eval()


def _leave_the_file(model: Any) -> None:
    """What stays unquantised (on a CPU) lies in the mapped file, which one such tensor keeps in memory whole, beside its NF4 form."""
    for weight in model.parameters():
        if weight.is_floating_point() and weight.device.type == "cpu":
            weight.data = weight.data.clone()


def packs(config: TrainConfig, model: Any) -> tuple[bool, str]:
    """(whether rows are packed, what a person should know of it); switches the model's attention over."""
    if config.packing == "padded":
        return False, ""
    able, said = attention.can_pack(model) and config.method not in SOFT_PROMPTS, ""
    if able:
        from retain.train import packing

        able, said = packing.settle(model)
    if not able and config.packing == "packed":
        raise ConfigError(
            "rows cannot be packed here", where="train.packing", got=f"{type(model).__name__} with method {config.method}" + (f"; {said}" if said else ""),
            expected="a causal model of full or sliding attention that goes through transformers' interface, without a soft cap or virtual tokens", fix="use packing: auto",
        )  # fmt: skip
    return able, f"rows are {'packed another way' if able else 'padded, not packed'}: {said}" if said else ""


def vocabulary(model: Any) -> int:
    """Tokens that the model has a state for."""
    return int(model.get_input_embeddings().weight.shape[0])


def longest(model: Any) -> int:
    """Tokens the model can read; a model without such a limit reads anything."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**31)
