"""transformers' settings for our loop, from ours."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from retain import models
from retain.train import sharding, speed, zero
from retain.train.config import TrainConfig, rate
from retain.train.speed import Choices


class OneDevice(TrainingArguments):
    """Of several GPUs the library would take all into one process (DataParallel), and the first for its own; a process of ours has one."""

    own = ""

    @property
    def device(self) -> torch.device:
        return torch.device(self.own) if self.own else super().device

    @property
    def n_gpu(self) -> int:
        return min(super().n_gpu, 1)

    def settle(self, device: str) -> "OneDevice":
        """Behind the library's own choice."""
        self.own = device
        if sharding.processes() == 1 and device != "cpu":
            self.distributed_state.device = torch.device(device)  # accelerate's, from which its Accelerator takes it
        if torch.cuda.is_available() and device != "cpu":
            torch.cuda.set_device(device)
        return self


def arguments(config: TrainConfig, choices: Choices, steps: int, folder: Path, device: str) -> TrainingArguments:
    """The loop of ``steps`` steps: the library neither saves, logs, evaluates nor reports by itself."""
    given = OneDevice(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=1, learning_rate=rate(config),
        lr_scheduler_type=config.lr_scheduler_type, warmup_steps=round(config.warmup_ratio * steps), max_grad_norm=config.max_grad_norm,
        seed=config.seed, save_strategy="no", eval_strategy="no", logging_strategy="no",
        logging_nan_inf_filter=False, report_to=[], disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=False,
        use_cpu=device == "cpu", ddp_find_unused_parameters=False, **_sharing(config, device), **_checkpointing(choices), **speed.arguments(choices),
    )  # fmt: skip
    return given.settle(device)


def _sharing(config: TrainConfig, device: str) -> dict[str, Any]:
    """DeepSpeed's configuration where it is asked for; the library wants to hear of bf16 twice, and casts nothing for it."""
    if config.sharding != "zero2":
        return {"bf16": False}
    bf16 = models.torch_dtype(config.dtype, device).itemsize == 2
    return {"bf16": bf16, "deepspeed": zero.settings(config.max_grad_norm, bf16=bf16)}


def _checkpointing(choices: Choices) -> dict[str, bool]:
    """The option was renamed within transformers 5; left out where it is off."""
    names = TrainingArguments.__dataclass_fields__
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {name: True} if choices.checkpointing else {}
