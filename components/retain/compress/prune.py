"""Pruning, streamed from file to file: a tensor at a time, entries become 0 or keep their very bytes.

Magnitude: Han et al. 2015, arXiv 1506.02626, section 3. 2:4: Mishra et al. 2021, arXiv 2104.08378, section 3.1.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import models
from retain.compress.config import CompressConfig
from retain.errors import ConfigError
from retain.merge.tensors import Folder, Output, Shard, Spec
from retain.progress import Progress

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 32 << 20
GROUP, KEPT_OF_GROUP = 4, 2
Zeros = dict[str, tuple[int, int]]  # tensor → (its entries, how many of them are 0 now)


def prune(config: CompressConfig, model_dir: Path, out: Path) -> Zeros:
    """Write the weight files of ``model_dir`` pruned to ``out``; what became of each pruned tensor.

    Memory: three times the largest pruned tensor. ConfigError where no tensor can be pruned.
    """
    with closing(Folder(model_dir)) as base:
        linear = {name: by_row for name, by_row in _linear(model_dir, base) if not skipped(name, config.skip)}
        if not linear:
            raise ConfigError("nothing in this model can be pruned", where=str(model_dir), expected="matrices of linear layers", fix="check compress.skip")  # fmt: skip
        total = sum(shard.specs[name].bytes for shard in base.shards for name in shard.specs) >> 20
        zeros: Zeros = {}
        with Progress("compress", total=total, unit="MiB") as progress:
            for shard in base.shards:
                zeros |= _file(config, shard, linear, out, progress)
    return zeros


def skipped(name: str, skip: Sequence[str]) -> bool:
    """Whether a part of ``skip`` stands in the tensor's name, as whole words between dots."""
    return any(f".{part}." in f".{name}." for part in skip)


def _file(config: CompressConfig, shard: Shard, linear: dict[str, bool], out: Path, progress: Progress) -> Zeros:
    target = out / shard.path.name
    zeros: Zeros = {}
    output = Output(target.with_name(f"{target.name}.partial"), [(s.name, s.dtype, s.shape) for s in shard.specs.values()], shard.metadata)  # fmt: skip
    for name, spec in shard.specs.items():
        if name in linear:
            zeros[name] = _pruned(config, shard, spec, linear[name], output)
        else:
            _copied(shard, spec, output)
        progress.advance(spec.bytes >> 20)
    output.close()
    output.path.replace(target)
    return zeros


def _copied(shard: Shard, spec: Spec, output: Output) -> None:
    import torch

    step = max(1, BLOCK_BYTES // max(spec.row_bytes, 1))
    buffer = torch.empty(min(step, spec.rows) * spec.row_bytes, dtype=torch.uint8)
    for first in range(0, spec.rows, step):
        output.write(spec.name, first, shard.read(spec, first, min(step, spec.rows - first), buffer))


def _pruned(config: CompressConfig, shard: Shard, spec: Spec, by_row: bool, output: Output) -> tuple[int, int]:
    import torch

    values = shard.read(spec, 0, spec.rows, torch.empty(spec.bytes, dtype=torch.uint8))
    sizes = values.float().abs_()
    gone = smallest(sizes, config.sparsity) if config.method == "magnitude" else two_of_four(sizes, by_row, spec.name)
    values.masked_fill_(gone, 0)
    output.write(spec.name, 0, values)
    return values.numel(), int((values == 0).count_nonzero())


def smallest(sizes: "torch.Tensor", share: float) -> "torch.Tensor":
    """Mask of the ``share`` of entries with the smallest sizes; of equal ones, the first."""
    import torch

    count = round(share * sizes.numel())
    mask = torch.zeros(sizes.numel(), dtype=torch.bool)
    if count:
        limit = sizes.flatten().kthvalue(count).values
        mask = sizes.flatten() < limit
        ties = (sizes.flatten() == limit).nonzero().flatten()
        mask[ties[: count - int(mask.count_nonzero())]] = True
    return mask.view_as(sizes)


def two_of_four(sizes: "torch.Tensor", by_row: bool, name: str) -> "torch.Tensor":
    """Mask of the two smallest of every four entries along the input axis (the second one where ``by_row``)."""
    import torch

    table = sizes if by_row else sizes.T
    if table.shape[1] % GROUP:
        raise ConfigError("2:4 needs a multiple of four inputs", where=name, got=table.shape[1], fix="add the name to compress.skip, or use magnitude")  # fmt: skip
    groups = table.reshape(table.shape[0], -1, GROUP)
    small = groups.argsort(dim=2, stable=True)[..., : GROUP - KEPT_OF_GROUP]
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(2, small, True).reshape(table.shape)
    return mask if by_row else mask.T


def _linear(model_dir: Path, base: Folder) -> Iterator[tuple[str, bool]]:
    """(stored name, are inputs the second axis) of every linear layer's matrix, as the model's own code has them."""
    for name, module in _skeleton(model_dir).named_modules():
        by_row = {"Linear": True, "Conv1D": False}.get(type(module).__name__)
        if by_row is None:
            continue
        fits = [known for known in (f"{name}.weight", re.sub(r"^[^.]*\.", "", f"{name}.weight")) if known in base.place]
        if fits and base.spec(fits[0]).floating:
            yield fits[0], by_row


def _skeleton(model_dir: Path) -> Any:
    """The model without its weights."""
    import torch

    with torch.device("meta"):
        return models.kind_of(model_dir).from_config(models.config_of(model_dir))
