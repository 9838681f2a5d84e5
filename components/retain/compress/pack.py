"""int8 and NF4 through bitsandbytes, as transformers saves and loads them."""

from pathlib import Path

from retain import models
from retain.compress.config import CompressConfig
from retain.errors import EnvironmentFault


def pack(config: CompressConfig, model_dir: Path, out: Path) -> None:
    """Write the packed weights and their config.json to ``out`` (memory: the model in its stored precision, once).

    int8: rows and columns with outliers apart (Dettmers et al. 2022, arXiv 2208.07339). NF4: 4-bit quantiles of a normal
    distribution in blocks of 64 (Dettmers et al. 2023, arXiv 2305.14314, section 3).
    """
    _need_bitsandbytes()
    from transformers import BitsAndBytesConfig

    models.quiet()
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": config.double_quant}
    settings = BitsAndBytesConfig(
        **(four if config.method == "nf4" else {"load_in_8bit": True}), llm_int8_skip_modules=list(config.skip),
        bnb_4bit_compute_dtype=models.torch_dtype("bf16"),
    )  # fmt: skip
    model = models.kind_of(model_dir).from_pretrained(
        str(model_dir), quantization_config=settings, dtype="auto", device_map={"": models.pick_device(config.device)},
        local_files_only=True, use_safetensors=True,
    )  # fmt: skip
    model.save_pretrained(str(out))


def _need_bitsandbytes() -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise EnvironmentFault("int8 and nf4 need bitsandbytes", got=error, fix="pip install bitsandbytes") from error
