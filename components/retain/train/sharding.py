"""One model split over several processes with FSDP2: weights, gradients and optimizer state in shards, layer by layer.

Each block is gathered just before it computes and let go behind it (Zhao et al. 2023, arXiv 2304.11277; torch's
``fully_shard``). Losses, steps and files are those of one process: a test compares the curves.
"""

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MEETING_SECONDS = 1800  # how long processes wait for the one that writes a checkpoint; nccl's own limit is 600
METHODS = ("lora", "full", "freeze", "bottleneck")  # whose parameters are plain tensors inside the blocks


def processes() -> int:
    """Processes that train together, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", 1))


def start(device: str) -> None:
    """Meet the other processes (before anything is split)."""
    from accelerate import PartialState

    PartialState(cpu=device == "cpu", timeout=timedelta(seconds=MEETING_SECONDS))


def split(model: Any, device: str) -> Any:
    """``model`` with every block, and what is left, in shards over all processes; nothing wraps it again afterwards.

    A model on the CPU is moved to the GPU block by block: it never lies there whole.
    """
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.split(":")[0], (processes(),))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # The output layer is used behind the forward (retain.train.loss), so the rest stays whole until the backward pass.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    model._is_accelerate_prepared = True
    return model


def blocks(model: Any) -> list[Any]:
    """The numbered blocks of a transformer, whatever lies around them."""
    import torch

    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) and not _inside_a_block(m)]
    return [block for found in lists for block in found]


def _inside_a_block(found: Any) -> bool:
    """Lists of something smaller than a block (experts, adapters by name) have no attention in them."""
    return not any("attn" in name.lower() or "attention" in name.lower() for name, _ in found[0].named_modules())


def from_all(value: Any) -> list[Any]:
    """``value`` of every process, in their order: a meeting of all."""
    if processes() == 1:
        return [value]
    from torch.distributed import all_gather_object

    found: list[Any] = [None] * processes()
    all_gather_object(found, value)
    return found


def whole(tensor: "torch.Tensor") -> "torch.Tensor":
    """The full tensor of a shard (a meeting of all processes); another tensor as it is."""
    full: Any = getattr(tensor, "full_tensor", lambda: tensor)
    result: torch.Tensor = full()
    return result


def like(value: "torch.Tensor", pattern: "torch.Tensor") -> "torch.Tensor":
    """``value``, the same on all processes, split as ``pattern`` is."""
    mesh = getattr(pattern, "device_mesh", None)
    if mesh is None:
        return value.to(pattern.device)
    from torch.distributed.tensor import distribute_tensor

    split: torch.Tensor = distribute_tensor(value.to(mesh.device_type), mesh, getattr(pattern, "placements"))  # noqa: B009
    return split
