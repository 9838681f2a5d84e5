"""The stream: blocks of rows from the base's files to the output's, computed in fp32, rounded once, hashed on the way."""

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from retain.errors import IntegrityError
from retain.merge.combine import METHODS
from retain.merge.config import MergeConfig
from retain.merge.deltas import LowRank, Replace
from retain.merge.plan import Job
from retain.merge.tensors import BYTES, Folder, Output, torch_type
from retain.progress import Progress

if TYPE_CHECKING:
    import torch

UNIT_BYTES = 32 << 20  # what one worker takes at a time, so that a large tensor is shared


@dataclass
class Moved:
    """entries: how many should change; lost: how many of them are rounded back to the base's value."""

    entries: int = 0
    lost: int = 0

    def add(self, other: "Moved") -> None:
        self.entries += other.entries
        self.lost += other.lost


@dataclass(frozen=True)
class Written:
    """sha256: hex by file, of the weights first. moved: by changed tensor."""

    sha256: dict[str, str]
    moved: dict[str, Moved]


def run(config: MergeConfig, base: Folder, files: dict[str, list[Job]], target: Path) -> Written:
    """Write every file of the plan under ``target``. IntegrityError: a value is not finite, a base file is cut short."""
    import torch

    outputs = {name: Output(target / f"{name}.partial", [(j.name, j.dtype, j.shape) for j in jobs], base_metadata(base, name)) for name, jobs in files.items()}  # fmt: skip
    worker = Worker(config, base)
    workers, threads = config.workers or min(4, torch.get_num_threads()), torch.get_num_threads()
    torch.set_num_threads(1)  # the workers are the parallelism
    total = sum(output.size for output in outputs.values()) >> 20
    try:
        with Progress("merge", total=total, unit="MiB") as progress, ThreadPoolExecutor(workers) as pool, ThreadPoolExecutor(workers) as hashers:  # fmt: skip
            units = {name: [(unit, pool.submit(worker.do, outputs[name], *unit)) for job in jobs for unit in units_of(config, job)] for name, jobs in files.items()}  # fmt: skip
            try:
                hashes = {name: hashers.submit(_hash, outputs[name], units[name], progress) for name in files}
                sha256 = {name: future.result() for name, future in hashes.items()}
            except BaseException:
                pool.shutdown(cancel_futures=True)
                hashers.shutdown(cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)
    moved: dict[str, Moved] = {}
    for (job, _, _), future in (pair for pairs in units.values() for pair in pairs):
        if job.changes:
            moved.setdefault(job.name, Moved()).add(future.result())
    for name, output in outputs.items():
        output.path.replace(target / name)
    return Written(sha256, moved)


def base_metadata(base: Folder, name: str) -> dict[str, str]:
    return next(shard.metadata for shard in base.shards if shard.path.name == name)


Unit = tuple[Job, int, int]


def in_one(config: MergeConfig, job: Job) -> bool:
    """Whether a tensor's rows cannot be computed alone: TIES ranks, DARE draws and SLERP measures whole changes."""
    return bool(job.changes) and (config.method != "linear" or any(delta.whole for delta, _ in job.changes))


def units_of(config: MergeConfig, job: Job) -> Iterator[Unit]:
    """(job, first row, rows) of all of a tensor: one unit where rows cannot be computed alone."""
    rows = job.shape[0] if job.shape else 1
    size = max(1, job_bytes(job) // max(rows, 1))
    step = rows if in_one(config, job) else max(1, UNIT_BYTES // size)
    for first in range(0, max(rows, 1), max(step, 1)):
        yield job, first, min(step, rows - first)


def job_bytes(job: Job) -> int:
    count = 1
    for length in job.shape:
        count *= length
    return count * BYTES[job.dtype]


def _hash(output: Output, units: Sequence[tuple[Unit, "Future[Moved]"]], progress: Progress) -> str:
    """sha256 of the file as the disk will have it, following the workers; flushed and closed at the end."""
    sha = hashlib.sha256()
    for chunk in output.chunks(0, output.offset):
        sha.update(chunk)
    for (job, first, rows), future in units:
        future.result()
        spec = output.specs[job.name]
        start = output.offset + spec.start + first * spec.row_bytes
        for chunk in output.chunks(start, start + rows * spec.row_bytes):
            sha.update(chunk)
        progress.advance((rows * spec.row_bytes) >> 20)
    output.close()
    return sha.hexdigest()


class Sink(Protocol):
    """Takes merged rows of tensor ``name`` from row ``first`` on: a file, or a loaded model."""

    def write(self, name: str, first: int, data: "torch.Tensor") -> None: ...


class Worker:
    """Merges units; each thread has buffers of its own."""

    def __init__(self, config: MergeConfig, base: Folder) -> None:
        self.config, self.base, self._own = config, base, threading.local()
        self.combine = METHODS[config.method]

    def do(self, output: Sink, job: Job, first: int, rows: int) -> Moved:
        columns = job_bytes(job) // BYTES[job.dtype] // max(job.shape[0] if job.shape else 1, 1)
        step = rows if in_one(self.config, job) else max(1, (self.config.block_mib << 20) // (4 * max(columns, 1)))
        moved = Moved()
        for at in range(first, first + rows, step):
            moved.add(self._block(output, job, at, min(step, first + rows - at)))
        return moved

    def _block(self, output: Sink, job: Job, first: int, rows: int) -> Moved:
        spec = self.base.spec(job.source)
        old = max(0, min(rows, spec.rows - first))  # an extended vocabulary has rows the base has not
        raw = self.base.read(job.source, first, old, self._buffer("raw", old * spec.row_bytes)) if old else None
        if not job.changes and job.dtype == spec.dtype and raw is not None:
            if spec.floating:
                _check_finite(raw, job.name)
            output.write(job.name, first, raw)
            return Moved()
        moved = Moved()
        if raw is not None:
            moved = self._old_rows(output, job, first, raw)
        if old < rows:
            self._new_rows(output, job, first + old, rows - old)
        return moved

    def _old_rows(self, output: Sink, job: Job, first: int, raw: "torch.Tensor") -> Moved:
        if not job.changes:
            return self._round(output, job, first, raw, raw.float(), None)
        base = self._floats("base", raw)
        replaced = self._replaced(job)
        if replaced is not None:
            result = replaced.new(first, raw.shape[0]).view(raw.shape)
            return self._round(output, job, first, raw, result.float(), None)
        only = job.changes[0][0]
        if len(job.changes) == 1 and isinstance(only, LowRank) and base.ndim == 2:
            left, right = only.factors(first, base.shape[0])
            base.addmm_(left, right, alpha=only.scale * job.changes[0][1] * job.strength)
            return self._round(output, job, first, raw, base, only.acts)
        change = self._change(job, first, base)
        return self._round(output, job, first, raw, base.add_(change, alpha=job.strength), change != 0)

    def _replaced(self, job: Job) -> Replace | None:
        """A tensor that is simply taken over: then its bytes are, too."""
        (delta, weight), *more = job.changes
        plain = self.config.method == "linear" and not more and weight * job.strength == 1
        return delta if plain and isinstance(delta, Replace) else None

    def _change(self, job: Job, first: int, base: "torch.Tensor") -> "torch.Tensor":
        changes, weights = [delta.rows(first, base) for delta, _ in job.changes], [weight for _, weight in job.changes]
        if len(changes) == 1 and self.config.method == "slerp":
            return changes[0] * weights[0]  # the other adapter leaves this tensor alone
        return self.combine(changes, weights, self.config.density, f"{self.config.seed}:{job.name}")

    def _new_rows(self, output: Sink, job: Job, first: int, rows: int) -> None:
        delta = next(delta for delta, _ in job.changes if isinstance(delta, Replace))
        values = delta.new(first, rows).to(torch_type(job.dtype))
        _check_finite(values, job.name)
        output.write(job.name, first, values)

    def _round(self, output: Sink, job: Job, first: int, raw: "torch.Tensor", result: "torch.Tensor", moves: Any) -> Moved:  # fmt: skip
        """Round once, look, write. ``moves``: which entries should change (True: all; None: those that do)."""
        rounded = self._typed("out", result, job.dtype)
        rounded.copy_(result)
        _check_finite(rounded, job.name)
        output.write(job.name, first, rounded)
        if moves is False:
            return Moved()
        same = _same(rounded, raw)
        if moves is True:
            return Moved(same.size, int(np.count_nonzero(same)))
        moves = ~same if moves is None else moves.numpy()
        return Moved(int(np.count_nonzero(moves)), int(np.count_nonzero(moves & same)))

    def _buffer(self, name: str, count: int) -> "torch.Tensor":
        import torch

        kept = getattr(self._own, name, None)
        if kept is None or kept.numel() < count:
            kept = torch.empty(max(count, 1), dtype=torch.uint8)
            setattr(self._own, name, kept)
        return kept[:count]

    def _floats(self, name: str, like: "torch.Tensor") -> "torch.Tensor":
        import torch

        made = self._buffer(name, like.numel() * 4).view(torch.float32).view(like.shape)
        made.copy_(like)
        return made

    def _typed(self, name: str, like: "torch.Tensor", dtype: str) -> "torch.Tensor":
        return self._buffer(name, like.numel() * BYTES[dtype]).view(torch_type(dtype)).view(like.shape)


def _same(one: "torch.Tensor", two: "torch.Tensor") -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Which entries are equal. In one precision their bits are: numpy compares whole numbers ten times as fast as torch bf16."""
    import torch

    if one.dtype != two.dtype:
        return (one == two).numpy()
    bits = {2: "int16", 4: "int32", 8: "int64"}[one.element_size()]
    return one.view(getattr(torch, bits)).numpy() == two.view(getattr(torch, bits)).numpy()


def _check_finite(values: "torch.Tensor", name: str) -> None:
    """A sum is one pass and is finite only if no value is NaN; infinities and overflow get the slow look."""
    import torch

    wide = torch.float32 if values.dtype == torch.float16 else None  # fp16 would overflow at once
    if not torch.isfinite(values.sum(dtype=wide)) and not torch.isfinite(values).all():
        raise IntegrityError("a merged tensor holds NaN or infinity", where=name, fix="the base or the adapter is broken: train with a lower rate, or fetch the base again")  # fmt: skip
