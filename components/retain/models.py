"""The one house of transformers' loading: bases, tokenizers, precision.

A base comes from a folder, or once from a GGUF file (kept as safetensors afterwards). Pickled weights and remote code
are refused.
"""

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import claims, digest
from retain.errors import ConfigError, EnvironmentFault, IntegrityError

if TYPE_CHECKING:
    import torch

# Unsaid, transformers asks whoever sits at the terminal whether code that came with a model may run.
NO_CODE = {"trust_remote_code": False}
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# What GGUF loading leaves on a model and save_pretrained then stumbles over.
GGUF_LEFTOVERS = ("hf_quantizer", "is_quantized", "quantization_method")


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a Hugging Face layout with safetensors weights."""
    if not folder.is_dir():
        raise ConfigError(
            "there is no such model folder",
            got=folder,
            expected="a folder in Hugging Face layout",
            fix="check model.base_model",
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(
            "this folder holds no model",
            where=str(folder),
            got="no config.json",
            expected="a Hugging Face layout",
            fix="point model.base_model to the folder that holds config.json",
        )
    claims.check_finished(folder)
    if digest.has_weights(p.name for p in folder.iterdir()):
        return
    pickled = sorted(p.name for pattern in PICKLED for p in folder.glob(pattern))
    if pickled:
        raise IntegrityError(
            "these weights are pickled, and a pickle can run any code when it is opened", where=str(folder), got=", ".join(pickled),
            expected="*.safetensors", fix="convert them once in a place you trust: AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)",
        )  # fmt: skip
    raise ConfigError(
        "this model folder has no weights",
        where=str(folder),
        got="no *.safetensors",
        expected="config.json beside *.safetensors",
        fix="download the weights again; a Git LFS pointer is not enough",
    )


def is_encoder_decoder(folder: Path) -> bool:
    """Whether a model folder holds an encoder–decoder (T5, BART)."""
    return bool(config_of(folder).is_encoder_decoder)


def settings_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """The settings file of a model or adapter folder; IntegrityError where it is no JSON object."""
    try:
        value = json.loads((folder / name).read_text(encoding="utf-8"))
    except ValueError as error:
        value = error
    if not isinstance(value, dict):
        raise IntegrityError("a settings file is damaged", where=str(folder / name), got=str(value)[:100], expected="a JSON object", fix="fetch or train it again")  # fmt: skip
    return value


def config_of(folder: Path) -> Any:
    """transformers' configuration of a model folder; ConfigError for a kind of model that it does not know."""
    from transformers import AutoConfig

    settings_of(folder)
    try:
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, **NO_CODE)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise _unknown(folder, error) from error


def kind_of(folder: Path) -> Any:
    """transformers' loader of a language model folder; ConfigError as in :func:`config_of`."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if is_encoder_decoder(folder) else AutoModelForCausalLM


def _unknown(folder: Path, error: Exception) -> ConfigError:
    said = " ".join(str(error).split())[:200]
    return ConfigError("transformers does not know this kind of model", where=str(folder / "config.json"), got=said, expected="a language model whose code is part of transformers (code that comes with a model is never run)")  # fmt: skip


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, with a pad token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **NO_CODE)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(folder: Path, *, dtype: str = "auto", device: str = "cpu", seq2seq: bool = False) -> Any:
    """A model in eval mode; ``dtype`` is auto (bf16 where the machine computes it), bf16, fp16 or fp32.

    Weights in int8 or NF4 stay packed and are computed in ``dtype``; those of a GGUF file are unpacked to it.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    quiet()
    check_folder(folder)
    kind = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    stored = _stored(folder, device)
    with opening(folder):
        model = kind.from_pretrained(
            str(folder), dtype=torch_dtype(dtype, device), local_files_only=True, **NO_CODE, **stored
        )
    return (model if "device_map" in stored else model.to(device)).eval()


@contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Inside, weights that cannot be opened are a clear fault."""
    from safetensors import SafetensorError

    try:
        yield
    except ValueError as error:
        if "nrecognized configuration class" not in str(error):
            raise
        raise _unknown(folder, error) from error
    except (OSError, SafetensorError) as error:
        raise IntegrityError(
            "this model cannot be opened",
            where=str(folder),
            got=str(error).splitlines()[0],
            fix="the files may be cut short: fetch them again",
        ) from error
    except ImportError as error:
        raise EnvironmentFault(
            "these weights need a library that this machine does not have",
            where=str(folder),
            got=str(error).strip().splitlines()[0],
            fix="pip install bitsandbytes gguf",
        ) from error


def _stored(folder: Path, device: str) -> dict[str, Any]:
    """How the weights of a folder are opened: safetensors, safetensors packed by bitsandbytes, or the folder's one GGUF file."""
    if not any(folder.glob("*.safetensors")):
        return {"gguf_file": next(folder.glob("*.gguf")).name}
    settings = settings_of(folder)
    # Packed weights are placed while they are read; transformers refuses to move them afterwards.
    placed = {"device_map": {"": device}} if settings.get("quantization_config") else {}
    return {"use_safetensors": True, **placed}


def torch_dtype(name: str, device: str = "cpu") -> "torch.dtype":
    """The torch type of a precision's name; ``auto`` is bf16 wherever the device computes it natively, else fp32."""
    import torch

    table = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if name != "auto":
        return table[name]
    return torch.bfloat16 if _computes_bf16(device) else torch.float32


def _computes_bf16(device: str) -> bool:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return (
        "avx512_bf16" in _cpu_flags()
        or "amx_bf16" in _cpu_flags()
        or torch.backends.cpu.get_capability() in {"AVX512", "SVE256"}
    )


def _cpu_flags() -> str:
    info = Path("/proc/cpuinfo")
    return info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""


def pick_device(name: str = "auto") -> str:
    """``auto`` is cuda where there is one; asking for cuda on a machine without is an error, never a silent fallback."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise EnvironmentFault(
            "no CUDA device on this machine",
            got=name,
            expected="an NVIDIA GPU and its driver",
            fix="use device: cpu, or run where a GPU is",
        )
    return name


def quiet() -> None:
    """Foreign bars and hints say nothing to the person who watches a step."""
    import logging
    import warnings

    os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is first imported
    from transformers.utils import logging as theirs

    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def from_gguf(file: Path, target: Path) -> None:
    """Turn a GGUF file into a safetensors folder (a 135M model: 20 s); the folder appears whole or not at all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if importlib.util.find_spec("torch") is None:
        raise EnvironmentFault(
            "turning a GGUF file into safetensors takes torch, which is not in this environment", where=str(file),
            fix="take a base in safetensors, or give all steps one home folder (profile: home.claim), where the first step leaves it",
        )  # fmt: skip
    quiet()
    place: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **place)
    model = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch_dtype("bf16"), **place)
    for name in GGUF_LEFTOVERS:
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    model.save_pretrained(str(partial))
    tokenizer.save_pretrained(str(partial))
    partial.replace(target)
