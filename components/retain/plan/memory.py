"""Peak memory of a training, part by part, before anything is loaded.

What the backward pass needs is counted tensor by tensor for a pre-norm decoder with a gated MLP (the family of Llama,
Qwen, Mistral, Gemma); on SmolLM2-135M the count agrees with autograd's own saved tensors to 1 %. What an allocator adds
on top was measured (tests/retain/plan/test_memory.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from retain.plan.shapes import ModelShape, adapter_parameters

Method = Literal["lora", "qlora", "full"]
MIB = 2**20
# Weights in NF4 with double quantisation: 4 bits, and 8 bits of scale for 64 weights with 32 bits for 256 scales (Dettmers 2023, arXiv 2305.14314, 3).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
CHUNK_LOGITS = {"cpu": 8_000_000, "cuda": 32_000_000}  # retain.train.loss
LOGIT_BYTES = 8  # bf16 logits, fp32 exponentials, bf16 slope
# What a heap holds beyond what is in use: a CPU's keeps freed buffers (measured on SmolLM2-135M), a GPU's caches in blocks of 2 MiB.
SLACK = {"cpu": 1.25, "cuda": 1.08}
LIBRARIES = {"cpu": 90 * MIB, "cuda": 600 * MIB}  # imported late; CUDA context and kernels
PRODUCTS = 110 * MIB  # compiled for as many shapes as oneDNN may keep (retain.train.memory), measured on SmolLM2-135M


@dataclass(frozen=True)
class TrainShape:
    """What of a training decides its memory. row_tokens: length of the longest row; micro_tokens: of one forward pass.

    supervised: share of tokens with a loss. saved_bytes: of a number the model computes in (bf16: 2).
    moments: bytes that the optimizer keeps of one weight beside its master. varied: steps differ in their number of tokens.
    """

    method: Method
    micro_tokens: int
    row_tokens: int
    r: int = 16
    target_modules: str | list[str] = "mlp-only"
    dropout: float = 0.0
    checkpointing: bool = False
    saved_bytes: int = 2
    supervised: float = 0.5
    device: Literal["cpu", "cuda"] = "cuda"
    keep_best: bool = True
    moments: int = 8
    varied: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes by part, and the largest sum that is held at once; ``moment``: where that is (backward or step)."""

    parts: Mapping[str, int]
    peak: int
    moment: Literal["backward", "step"]
    trainable_parameters: int

    def fits(self, available: int) -> bool:
        return self.peak <= available


def training_memory(shape: ModelShape, train: TrainShape) -> Memory:
    """Peak of one device. Every parameter counts once, tied embeddings too; no sharding over devices."""
    s, full = train.saved_bytes, train.method == "full"
    moving = shape.parameters if full else adapter_parameters(shape, train.r, train.target_modules)
    masters = 0 if s == 4 else 4 * moving
    parts = {
        "weights": _weights(shape, train), "adapter": 0 if full else s * moving, "gradients": s * moving, "optimizer": masters + train.moments * moving,
        "step_copies": 0 if s == 4 else 4 * moving, "best_copy": (s if full else 4) * moving if train.keep_best else 0,
        "activations": int(SLACK[train.device] * activation_bytes(shape, train)), "logits": _logits(shape, train), "libraries": LIBRARIES[train.device] + (PRODUCTS if train.varied and train.device == "cpu" else 0),
    }  # fmt: skip
    held = sum(parts[name] for name in ("weights", "adapter", "optimizer", "best_copy", "libraries"))
    backward = held + parts["activations"] + parts["logits"] + (0 if full else parts["gradients"])
    step = held + parts["gradients"] + parts["step_copies"]
    return Memory(parts, max(backward, step), "backward" if backward >= step else "step", moving)


def _weights(shape: ModelShape, train: TrainShape) -> int:
    if train.method != "qlora":
        return train.saved_bytes * shape.parameters
    quantised = sum(linear.rows * linear.columns for linear in shape.linears)
    return int(NF4_BYTES * quantised) + train.saved_bytes * (shape.parameters - quantised)


def _logits(shape: ModelShape, train: TrainShape) -> int:
    """Chunks of the head (retain.train.loss); a full fine-tune also holds the head's gradient in fp32 and rounded."""
    chunk = LOGIT_BYTES * min(CHUNK_LOGITS[train.device], int(train.supervised * train.micro_tokens) * shape.vocab)
    gradient = (4 + train.saved_bytes) * shape.vocab * shape.hidden if train.method == "full" else 0
    return chunk + gradient


def activation_bytes(shape: ModelShape, train: TrainShape) -> int:
    """What the backward pass needs of ``micro_tokens`` tokens, without an allocator's slack."""
    layer = layer_bytes(shape, train) * train.micro_tokens
    walked_back = layer  # the gradients of one layer at a time
    if not train.checkpointing:
        return int(layer * shape.layers + walked_back)
    return int(train.saved_bytes * shape.hidden * train.micro_tokens * shape.layers + layer + walked_back)


def layer_bytes(shape: ModelShape, train: TrainShape) -> float:
    """Bytes that one layer saves for one token."""
    s, h, i = train.saved_bytes, shape.hidden, shape.intermediate
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    moves = _moving_roles(train)
    norms = 2 * 4 * h + (2 * s * h if train.method == "full" else 0)
    long_rows = train.device == "cuda" or train.row_tokens > 512
    mixing = s * queries + 4 * shape.heads if long_rows else s * shape.heads * train.row_tokens
    attention = s * (queries + 2 * keys) + mixing
    if "attention" in moves:
        attention += _inputs(train, h, readers=3) + _inputs(train, queries, readers=1)
    mlp = 3 * s * i + (_inputs(train, h, readers=2) + _inputs(train, i, readers=1) if "mlp" in moves else 0)
    return norms + attention + mlp


def _moving_roles(train: TrainShape) -> set[str]:
    if train.method == "full" or train.target_modules == "all-linear":
        return {"attention", "mlp"}
    preset = {"mlp-only": {"mlp"}, "attention-only": {"attention"}, "attention-qv": {"attention"}}
    return preset.get(train.target_modules, {"attention", "mlp"}) if isinstance(train.target_modules, str) else {"attention", "mlp"}  # fmt: skip


def _inputs(train: TrainShape, width: int, *, readers: int) -> int:
    """An input is kept once for all its readers; with dropout each reader keeps its own, and its mask."""
    copies = 2 * readers if train.dropout and train.method != "full" else 1
    return train.saved_bytes * width * copies


def kv_cache_bytes(shape: ModelShape, tokens: int, *, number_bytes: int = 2) -> int:
    """Keys and values of ``tokens`` tokens while generating."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * number_bytes * tokens
