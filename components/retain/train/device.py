"""The one device of a training process: which it is, and what to do where its memory is full."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from retain import models
from retain.errors import ConfigError, EnvironmentFault
from retain.train.config import TrainConfig

OUT_OF_MEMORY = ("out of memory", "alloc_failed", "can't allocate memory", "not enough memory")


def own(config: TrainConfig) -> str:
    """cpu, or the GPU of this process (under torchrun each of a machine has its own), made the current one."""
    name = models.pick_device(config.device)
    if name == "cpu":
        return name
    import torch

    number = int(name.partition(":")[2] or os.environ.get("LOCAL_RANK", "0"))
    check_count(number + 1, torch.cuda.device_count(), "device" if ":" in name else "processes", number if ":" in name else number + 1)  # fmt: skip
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def check_count(wanted: int, there: int, knob: str, got: int) -> None:
    """Refuse more GPUs than this machine has."""
    if wanted > there:
        raise ConfigError("this machine has not so many GPUs", where=f"train.{knob}", got=got, expected=f"{there} of them, counted from 0" if knob == "device" else f"at most {there}", fix="use auto")  # fmt: skip


@contextmanager
def explained(config: TrainConfig, device: str) -> Iterator[None]:
    """Inside, memory that runs out is a clear fault with what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise
        raise EnvironmentFault(
            f"the memory of {device} is full", where="train", got=(str(error) or "no memory left").splitlines()[0],
            expected="what `retain plan` says of this recipe on this device", fix="; or ".join(_smaller(config)),
        ) from error  # fmt: skip


def _smaller(config: TrainConfig) -> list[str]:
    """What lowers the need, the cheapest first."""
    ways = [
        (True, f"lower train.micro_tokens (it is {config.micro_tokens}; a row is never split: lower template.max_seq_length where one is longer)"),
        (config.gradient_checkpointing is not True and config.method not in ("prefix", "probe"), "set train.gradient_checkpointing: true"),
        (config.method == "lora", "use train.method: qlora"),
        (config.method in ("full", "freeze"), "use train.method: lora, or train.optimizer: adamw_8bit"),
        (config.early_stopping.keep_best and config.method in ("full", "freeze"), "set train.early_stopping.keep_best: false"),
        (config.sharding == "none" and config.method in ("lora", "full"), "share it out over several GPUs (train.sharding: fsdp)"),
    ]  # fmt: skip
    return [way for fits, way in ways if fits]
