"""Safetensors as bytes on disk: headers, blocks of rows in and out, without ever holding a whole file.

Format: 8 bytes little-endian length of a JSON header {name: {dtype, shape, data_offsets}}, then the tensors' bytes
(https://huggingface.co/docs/safetensors, "Format").
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain.errors import ConfigError, IntegrityError
from retain.merge import index

if TYPE_CHECKING:
    import torch

BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "C64": 8}  # fmt: skip
FLOATS = {"F64", "F32", "F16", "BF16"}
HEADER_LIMIT = 100 << 20  # as in the reference implementation


def torch_type(dtype: str) -> "torch.dtype":
    import torch

    return {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]


@dataclass(frozen=True)
class Spec:
    """One tensor in one file. start: byte offset in the file of its first element."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def rows(self) -> int:
        """Length of the first axis; a scalar counts as one row."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        return BYTES[self.dtype] * math.prod(self.shape[1:])

    @property
    def bytes(self) -> int:
        return BYTES[self.dtype] * math.prod(self.shape)

    @property
    def floating(self) -> bool:
        return self.dtype in FLOATS


class Shard:
    """A safetensors file for reading; checked to be whole. Threads may read at once."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():  # a link to nothing, a folder, a pipe that nobody would ever fill
            raise _damaged(path, "it is no file")
        self.path = path
        self._file = os.open(path, os.O_RDONLY)
        try:
            self.specs, self.metadata = _header(path, self._file)
        except BaseException:
            self.close()
            raise

    def read(self, spec: Spec, first: int, rows: int, buffer: "torch.Tensor") -> "torch.Tensor":
        """Rows [first, first + rows) into the uint8 ``buffer``, as a view of it: (rows, …) in the stored type."""
        count = rows * spec.row_bytes
        view = memoryview(buffer.numpy())[:count]
        place, done = spec.start + first * spec.row_bytes, 0
        while done < count:
            got = os.preadv(self._file, [view[done:]], place + done)
            if not got:
                raise _damaged(self.path, f"it ends inside {spec.name}")
            done += got
        flat = buffer[:count]
        return flat.view(torch_type(spec.dtype)).view(rows, *spec.shape[1:]) if spec.floating else flat

    def tensor(self, name: str) -> "torch.Tensor":
        """A whole tensor in fp32."""
        import torch

        spec = self.specs[name]
        if not spec.floating:
            raise ConfigError("a change of weights is in floating-point numbers", where=str(self.path), got=f"{name} ({spec.dtype})")  # fmt: skip
        buffer = torch.empty(spec.bytes, dtype=torch.uint8)
        return self.read(spec, 0, spec.rows, buffer).view(spec.shape).float()

    def close(self) -> None:
        os.close(self._file)


def _header(path: Path, file: int) -> tuple[dict[str, Spec], dict[str, str]]:
    """(tensors in the order of their bytes, metadata), under the rules of the reference implementation: every byte after
    the header belongs to exactly one tensor."""
    size = os.fstat(file).st_size
    length = int.from_bytes(os.pread(file, 8, 0), "little")
    if size < 8 or length > min(size - 8, HEADER_LIMIT):
        raise _damaged(path, f"{size} bytes do not hold a header of {length}")
    try:
        raw = dict(json.loads(os.pread(file, length, 8)))
        metadata = {str(key): str(value) for key, value in dict(raw.pop("__metadata__", {})).items()}
        entries = sorted((_entry(path, name, entry) for name, entry in raw.items()), key=lambda entry: entry[:2])
    except (ValueError, TypeError, LookupError, RecursionError):
        raise _damaged(path, "its header is not one of safetensors") from None
    at, specs = 0, {}
    for first, end, name, dtype, shape in entries:
        specs[name] = Spec(name, dtype, shape, 8 + length + first)
        if first != at or end - first != specs[name].bytes:
            raise _damaged(path, f"its header places {name} at {first} to {end}, where {at} to {at + specs[name].bytes} is its own")  # fmt: skip
        at = end
    if 8 + length + at != size:
        raise _damaged(path, f"{size} bytes where its header tells {8 + length + at}")
    return specs, metadata


def _entry(path: Path, name: str, entry: Mapping[str, Any]) -> tuple[int, int, str, str, tuple[int, ...]]:
    """(first byte, last byte + 1, name, type, shape)."""
    first, end = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), entry["dtype"]
    if not all(type(number) is int and number >= 0 for number in (*shape, first, end)):
        raise ValueError(name)
    if dtype not in BYTES:
        raise ConfigError("weights of this type are not merged or pruned", where=str(path), got=f"{name} ({dtype})", expected=", ".join(BYTES))  # fmt: skip
    return first, end, name, dtype, shape


def _damaged(path: Path, how: str) -> IntegrityError:
    return IntegrityError("a weights file is damaged or cut short", where=str(path), got=how, fix="fetch or train it again")  # fmt: skip


class Folder:
    """The safetensors files that make a model or adapter, addressed by tensor name."""

    def __init__(self, path: Path) -> None:
        """IntegrityError where a file is missing, damaged, or not what the index says."""
        self.path, known = path, index.read(path)
        names = index.weight_files(path, known)
        self.left_out = sorted({p.name for p in path.glob("*.safetensors")} - set(names))
        self.shards: list[Shard] = []
        if not names:
            raise IntegrityError("this folder has no safetensors weights", where=str(path), got=", ".join(sorted(p.name for p in path.glob("*.bin"))))  # fmt: skip
        try:
            for name in names:
                self.shards.append(Shard(path / name))
            index.check(path, known, {shard.path.name: shard.specs for shard in self.shards})
        except BaseException:
            self.close()
            raise

    @cached_property
    def place(self) -> dict[str, Shard]:
        return {name: shard for shard in self.shards for name in shard.specs}

    def spec(self, name: str) -> Spec:
        return self.place[name].specs[name]

    def tensor(self, name: str) -> "torch.Tensor":
        return self.place[name].tensor(name)

    def read(self, name: str, first: int, rows: int, buffer: "torch.Tensor") -> "torch.Tensor":
        return self.place[name].read(self.spec(name), first, rows, buffer)

    def close(self) -> None:
        for shard in self.shards:
            shard.close()


class Output:
    """A safetensors file that is written out of order by many threads; its size and header are known beforehand."""

    def __init__(self, path: Path, tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> None:  # fmt: skip
        """``tensors``: (name, dtype, shape) in file order."""
        self.path, self.specs, entries, at = path, {}, {}, 0
        for name, dtype, shape in tensors:
            spec = Spec(name, dtype, shape, at)
            entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + spec.bytes]}
            self.specs[name] = spec
            at += spec.bytes
        head = json.dumps({"__metadata__": {"format": "pt", **metadata}, **entries}, separators=(",", ":")).encode()
        head += b" " * (-len(head) % 8)
        self.offset, self.size = 8 + len(head), 8 + len(head) + at
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.pwrite(self._file, len(head).to_bytes(8, "little") + head, 0)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file, 0, self.size)  # a full disk is found now, not at the last shard

    def write(self, name: str, first: int, data: "torch.Tensor") -> None:
        """``data`` (rows, …) of contiguous memory to the place of row ``first``."""
        import torch

        spec = self.specs[name]
        view = memoryview(data.reshape(-1).view(torch.uint8).numpy())
        place, done = self.offset + spec.start + first * spec.row_bytes, 0
        while done < len(view):
            done += os.pwrite(self._file, view[done:], place + done)

    def chunks(self, first: int, end: int, size: int = 1 << 20) -> Iterator[bytes]:
        """What the file now holds, for hashing."""
        while first < end:
            data = os.pread(self._file, min(size, end - first), first)
            yield data
            first += len(data)

    def close(self) -> None:
        os.fsync(self._file)
        os.close(self._file)
