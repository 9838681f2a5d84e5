"""One GGUF file from a model folder, through the gguf package: names, shapes and vocabulary as llama.cpp reads them.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensors are written one after the other (memory: the
largest tensor in fp32, twice).
"""

import json
import math
from contextlib import closing
from pathlib import Path
from typing import Any

from retain.artifacts import flush
from retain.compress import vocabulary
from retain.compress.config import CompressConfig
from retain.compress.prune import skipped
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.merge.tensors import Folder
from retain.progress import Progress

# transformers' model_type → (gguf architecture, are the rows of q and k stored in pairs that lie half a head apart).
ARCHITECTURES = {"llama": ("LLAMA", True), "qwen2": ("QWEN2", False), "qwen3": ("QWEN3", False)}
HEAD = "lm_head.weight"
BLOCK = 32  # entries of a Q8_0 block, along a row


def write(config: CompressConfig, model_dir: Path, out: Path) -> list[str]:
    """Write ``out``/model-<type>.gguf; what a person should know. ConfigError for a model whose form is not known here."""
    gguf = _need_gguf()
    settings = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    architecture, permuted = _architecture(settings)
    target = out / f"model-{config.gguf_type.lower()}.gguf"
    partial = target.with_name(f"{target.name}.partial")
    writer = gguf.GGUFWriter(partial, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[architecture]])
    _settings(gguf, writer, config, settings)
    vocabulary.write(gguf, writer, model_dir, settings["vocab_size"], config.gguf_vocabulary)
    with closing(Folder(model_dir)) as base, closing(writer):
        tensors = _Tensors(gguf, config, settings, base, architecture, permuted)
        tensors.write(writer)
    flush(partial)
    partial.replace(target)
    return [f"{len(tensors.kept)} matrices stay in F16"] if tensors.kept else []


def _need_gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise EnvironmentFault("a GGUF file needs the package gguf", got=error, fix="pip install gguf") from error
    return gguf


def _architecture(settings: dict[str, Any]) -> tuple[str, bool]:
    kind = settings.get("model_type", "")
    if kind not in ARCHITECTURES:
        raise ConfigError("this kind of model is not written as GGUF here", got=kind, expected=", ".join(ARCHITECTURES), fix="use int8 or nf4, or llama.cpp's own converter")  # fmt: skip
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ConfigError("scaled rotary positions are not written as GGUF here", got=rope, expected="rope_type default", fix="use int8 or nf4, or llama.cpp's own converter")  # fmt: skip
    odd = [key for key in ("attention_bias", "mlp_bias", "use_sliding_window") if settings.get(key)]
    if odd:
        raise ConfigError("this variant is not written as GGUF here", got=", ".join(odd), fix="use int8 or nf4")
    return ARCHITECTURES[kind]


def _settings(gguf: Any, writer: Any, config: CompressConfig, settings: dict[str, Any]) -> None:
    heads = settings["num_attention_heads"]
    width = settings.get("head_dim") or settings["hidden_size"] // heads
    rope = settings.get("rope_parameters") or settings
    for add, value in (
        (writer.add_context_length, settings["max_position_embeddings"]), (writer.add_embedding_length, settings["hidden_size"]),
        (writer.add_block_count, settings["num_hidden_layers"]), (writer.add_feed_forward_length, settings["intermediate_size"]),
        (writer.add_head_count, heads), (writer.add_head_count_kv, settings.get("num_key_value_heads") or heads),
        (writer.add_rope_dimension_count, width), (writer.add_key_length, width), (writer.add_value_length, width),
        (writer.add_rope_freq_base, rope.get("rope_theta", 10000.0)), (writer.add_layer_norm_rms_eps, settings["rms_norm_eps"]),
        (writer.add_vocab_size, settings["vocab_size"]), (writer.add_quantization_version, gguf.GGML_QUANT_VERSION),
    ):  # fmt: skip
        add(value)
    kinds = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}
    writer.add_file_type(int(gguf.LlamaFileType[kinds[config.gguf_type]]))


class _Tensors:
    """Which tensor becomes which, in which precision."""

    def __init__(self, gguf: Any, config: CompressConfig, settings: dict[str, Any], base: Folder, architecture: str, permuted: bool) -> None:  # fmt: skip
        self.gguf, self.config, self.base, self.permuted = gguf, config, base, permuted
        self.heads = settings["num_attention_heads"]
        self.key_heads = settings.get("num_key_value_heads") or self.heads
        self.tied = bool(settings.get("tie_word_embeddings"))
        self.kept: list[str] = []  # matrices that stay in 16 bits
        self.names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture], settings["num_hidden_layers"])

    def write(self, writer: Any) -> None:
        """All tensors: first what they are, then their data in the same order."""
        import numpy as np

        jobs = [(source, *self._form(source)) for source in self.base.place if not (self.tied and source == HEAD)]
        for source, name, kind in jobs:
            shape = self.base.spec(source).shape
            block, size = self.gguf.GGML_QUANT_SIZES[kind]
            writer.add_tensor_info(name, shape, np.dtype(np.float32), math.prod(shape) // block * size, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with Progress("compress", total=len(jobs), unit="tensors") as progress:
            for source, _, kind in jobs:
                writer.write_tensor_data(self._data(source, kind))
                progress.advance()

    def _form(self, source: str) -> tuple[str, Any]:
        """(name in the file, type in the file); vectors are always F32."""
        name = self.names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ConfigError("this tensor has no name in GGUF", got=source, fix="use int8 or nf4")
        types, shape = self.gguf.GGMLQuantizationType, self.base.spec(source).shape
        if len(shape) == 1:
            return name, types.F32
        packed = self.config.gguf_type == "Q8_0"
        if packed and (skipped(source, self.config.skip) or shape[-1] % BLOCK):
            self.kept.append(source)
            return name, types.F16
        return name, types[self.config.gguf_type]

    def _data(self, source: str, kind: Any) -> Any:
        import numpy as np

        values = self._rotated(source, self.base.tensor(source).numpy())
        with np.errstate(over="ignore"):  # looked for in the next line
            data = self.gguf.quants.quantize(values, kind)
        if data.dtype == np.float16 and not np.isfinite(data).all():
            raise IntegrityError("a weight is too large for 16-bit floats", where=source, fix="use gguf_type: BF16")
        return data

    def _rotated(self, source: str, values: Any) -> Any:
        """llama.cpp turns neighbouring rows of q and k together, transformers those half a head apart."""
        heads = {"q_proj": self.heads, "k_proj": self.key_heads}.get(source.split(".")[-2]) if self.permuted else None
        if not heads:
            return values
        pairs = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return pairs.swapaxes(1, 2).reshape(values.shape)
