"""What makes a training fit or go faster without changing what it computes: decided once, and written into its record."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from retain.errors import ConfigError
from retain.train import sharding
from retain.train.config import TrainConfig
from retain.train.rows import Row

# Parts of the plan that the processes share out.
SPLIT = {"none": (), "fsdp": ("gradients", "optimizer", "step_copies", "best_copy"), "zero2": ("gradients", "optimizer", "step_copies")}  # fmt: skip
HEADROOM = 0.9  # share of the free memory that a plan, right to 15 %, may fill


@dataclass(frozen=True)
class Choices:
    """checkpointing: activations computed twice; liger: fused kernels; why: one line each, for the record."""

    checkpointing: bool = False
    liger: bool = False
    why: tuple[str, ...] = ()


def choose(config: TrainConfig, rows: list[Row], model_dir: Path, device: str) -> Choices:
    """Settle what the recipe leaves to ``auto``."""
    checkpointing, reason = _checkpointing(config, rows, model_dir, device)
    kernels = _liger(config, device)
    notes = [reason, f"liger-kernel {kernels}: fused norms, rotations and MLPs" if kernels else ""]
    return Choices(checkpointing, bool(kernels), tuple(note for note in notes if note))


def _checkpointing(config: TrainConfig, rows: list[Row], model_dir: Path, device: str) -> tuple[bool, str]:
    """On where what the plan adds to the loaded base does not fit into free memory; a family that cannot be planned goes without."""
    if config.gradient_checkpointing != "auto":
        return bool(config.gradient_checkpointing), ""
    if config.method == "prefix":
        return (
            False,
            "no gradient checkpointing: a prefix is a cache, and activations cannot be computed twice with one",
        )
    from retain.plan.memory import training_memory
    from retain.plan.shapes import read_shape

    try:
        shape = read_shape(model_dir)
    except KeyError as missing:
        return (
            False,
            f"no gradient checkpointing: the memory of this family is not planned (no {missing} in its config)",
        )
    room = free_memory(device) * HEADROOM
    memory = training_memory(shape, planned(config, rows, device))
    shared = sum(memory.parts[name] for name in SPLIT[config.sharding])
    coming = memory.parts["weights"] / sharding.processes() if config.sharding == "fsdp" and device != "cpu" else 0
    need = memory.peak - memory.parts["weights"] + coming - shared * (1 - 1 / sharding.processes())
    said = f"{need / 2**30:.1f} GiB planned beside the base, {room / 2**30:.1f} GiB to fill"
    return (True, f"gradient checkpointing: {said}") if need > room else (False, f"no gradient checkpointing: {said}")


def for_model(choices: Choices, config: TrainConfig, *, recomputes: bool) -> Choices:
    """``recomputes``: whether the family's code can compute activations twice."""
    if recomputes or not choices.checkpointing:
        return choices
    if config.gradient_checkpointing is True:
        raise ConfigError("this family's code cannot compute activations twice", where="train.gradient_checkpointing", got="true", fix="use auto, and lower train.micro_tokens where memory is short")  # fmt: skip
    return replace(choices, checkpointing=False, why=(*choices.why, "not done: this family's code cannot compute activations twice"))  # fmt: skip


def planned(config: TrainConfig, rows: list[Row], device: str) -> Any:
    """The sizes of this very training, as the planner counts them."""
    from retain.plan.config import PlanConfig
    from retain.plan.work import RunFacts, train_shape

    tokens = sum(row.tokens for row in rows)
    facts = RunFacts(len(rows), tokens, max(row.tokens for row in rows), sum(row.supervised for row in rows) / tokens)
    where = PlanConfig(device="cpu" if device == "cpu" else PlanConfig().device)
    return train_shape(where, config, facts)


def free_memory(device: str) -> int:
    """Bytes that this process may still take: of the GPU, or of the machine and the pod's own limit."""
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return min(free, limit - used) if limit else free


def _number(file: Path) -> int:
    text = file.read_text(encoding="ascii").strip() if file.is_file() else ""
    return int(text) if text.isdigit() else 0


def _liger(config: TrainConfig, device: str) -> str:
    """Version of liger-kernel where it is to be used, else ""."""
    return "" if config.fused_kernels == "off" or device == "cpu" else liger_version()


def liger_version() -> str:
    try:
        return version("liger-kernel")
    except PackageNotFoundError:
        return ""


def arguments(choices: Choices) -> Mapping[str, Any]:
    """What transformers' Trainer is told; the loss stays ours (it never holds all logits)."""
    if not choices.liger:
        return {}
    return {"use_liger_kernel": True, "liger_kernel_config": {"fused_linear_cross_entropy": False, "cross_entropy": False}}  # fmt: skip
