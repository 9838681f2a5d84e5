"""What a model is made of, read from config.json and the headers of its safetensors: no weights, no torch."""

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain.errors import ConfigError, IntegrityError

BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}
HEADER_LIMIT = 100_000_000
QUERY_VALUE = {"q_proj", "v_proj", "query", "value", "q", "v", "c_attn", "qkv_proj", "query_key_value", "Wqkv"}
ATTENTION = re.compile(r"att(n|ention)", re.IGNORECASE)


@dataclass(frozen=True)
class Linear:
    """A weight matrix inside a numbered block."""

    name: str
    rows: int
    columns: int

    @property
    def role(self) -> str:
        return "attention" if ATTENTION.search(self.name) else "mlp"


@dataclass(frozen=True)
class ModelShape:
    """Counts of parameters and the sizes that memory depends on; stored_bytes: as the files hold them."""

    parameters: int
    embedding_parameters: int
    largest: int
    stored_bytes: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    linears: tuple[Linear, ...]


def read_shape(folder: Path) -> ModelShape:
    """The shape of a model folder in Hugging Face layout. ConfigError without config.json or safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    if not (folder / "config.json").is_file() or not files:
        raise ConfigError("this folder holds no model", where=str(folder), expected="config.json and *.safetensors", fix="point model.base_model to a Hugging Face folder")  # fmt: skip
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    tensors = {name: t for file in files for name, t in _header(file).items() if name != "__metadata__"}
    count = {name: _product(t["shape"]) for name, t in tensors.items()}
    hidden, heads = config.get("hidden_size") or config["n_embd"], config.get("num_attention_heads") or config["n_head"]
    return ModelShape(
        parameters=sum(count.values()), embedding_parameters=sum(n for name, n in count.items() if _is_embedding(name)), largest=max(count.values()),
        stored_bytes=sum(n * BYTES.get(tensors[name]["dtype"], 2) for name, n in count.items()),
        layers=config.get("num_hidden_layers") or config["n_layer"], hidden=hidden, intermediate=config.get("intermediate_size") or 4 * hidden, heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads, head_dim=config.get("head_dim") or hidden // heads, vocab=config["vocab_size"],
        linears=tuple(Linear(name, *t["shape"]) for name, t in sorted(tensors.items()) if len(t["shape"]) == 2 and re.search(r"\.\d+\.", name)),
    )  # fmt: skip


def _header(file: Path) -> Mapping[str, Any]:
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 0 < length < HEADER_LIMIT:
            raise IntegrityError("a safetensors file is damaged", where=str(file), got=f"a header of {length} bytes", fix="fetch the file again")  # fmt: skip
        header: dict[str, Any] = json.loads(stream.read(length))
    return header


def _is_embedding(name: str) -> bool:
    return bool(re.search(r"embed_tokens|wte|word_embeddings|embed_in|lm_head|embed_out", name))


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def adapter_parameters(shape: ModelShape, r: int, target: str | list[str]) -> int:
    """Parameters of a LoRA of rank ``r`` on a preset or on named modules: Σ r·(in + out)."""
    return sum(r * (linear.rows + linear.columns) for linear in shape.linears if _chosen(linear, target))


def _chosen(linear: Linear, target: str | list[str]) -> bool:
    leaf = linear.name.removesuffix(".weight").rsplit(".", 1)[-1]
    if isinstance(target, list):
        return leaf in target
    if target == "attention-qv":
        return leaf in QUERY_VALUE
    return target == "all-linear" or linear.role == target.removesuffix("-only") or leaf == target
