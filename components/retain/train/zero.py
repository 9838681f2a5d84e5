"""DeepSpeed's ZeRO-2: gradients and moments are shared out over the processes, every process keeps whole weights.

An option beside FSDP2, which torch has itself and which splits the weights too (Rajbhandari et al. 2020, arXiv
1910.02054). DeepSpeed holds the fp32 masters; what a checkpoint or an adapter needs of them is asked for whole, so that both
look as they do without it, and a run may go on with another number of processes.
"""

from collections.abc import Mapping
from typing import Any

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")


def settings(max_grad_norm: float, *, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's configuration. One step is one "batch" to it, however many rows and micro-batches are in it."""
    return {
        "train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1, "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": bf16}, "data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32",
        "zero_optimization": {"stage": 2, "contiguous_gradients": True, "overlap_comm": False}, "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31 - 1,
    }  # fmt: skip


class SharedMoments:
    """DeepSpeed's optimizer with the surface of retain.train.optimizer.Masters; all processes call each method together.

    ``sources``: the trainable parameters, in the order of the masters. ``zero``: what deepspeed.initialize made of AdamW.
    """

    def __init__(self, sources: list[torch.nn.Parameter], zero: Any) -> None:
        self.sources, self.zero, self.inner = sources, zero, zero.optimizer

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = self.inner.param_groups
        return groups

    @property
    def masters(self) -> list[torch.Tensor]:
        """fp32, whole."""
        from deepspeed.utils import safe_get_full_fp32_param

        return [safe_get_full_fp32_param(source) for source in self.sources]

    def publish(self) -> None:
        """DeepSpeed rounds its masters into the model at each step."""

    @torch.no_grad()
    def put(self, weights: list[torch.Tensor]) -> None:
        """Set masters and model to ``weights``."""
        from deepspeed.utils import safe_set_full_fp32_param

        for source, weight in zip(self.sources, weights, strict=True):
            source.copy_(weight)
            safe_set_full_fp32_param(source, weight.to(source.device, torch.float32))

    def moments(self, number: int) -> dict[str, torch.Tensor]:
        """Moments of master ``number``, whole, and the count of its steps; empty before the first one."""
        from deepspeed.utils import safe_get_full_optimizer_state

        if not self.inner.state:
            return {}
        found = {name: safe_get_full_optimizer_state(self.sources[number], name) for name in MOMENTS}
        return {"step": torch.as_tensor(next(iter(self.inner.state.values()))["step"]), **found}

    def set_moments(self, number: int, values: Mapping[str, torch.Tensor]) -> None:
        """The opposite of `moments`."""
        from deepspeed.utils import safe_set_full_optimizer_state

        if not values:
            return
        if not self.inner.state:
            self._make_room(values["step"])
        source = self.sources[number]
        for name in MOMENTS:
            safe_set_full_optimizer_state(source, values[name].to(source.device), name)

    def _make_room(self, step: torch.Tensor) -> None:
        """What AdamW would make at its first step, for each flat share of this process, linked to its parameters."""
        for group in self.inner.param_groups:
            for flat in group["params"]:
                self.inner.state[flat] = {"step": step.clone(), **{name: torch.zeros_like(flat) for name in MOMENTS}}
        self.zero._lazy_init_hp_params_optimizer_state()
