"""Memory of a training on a CPU: what is kept from step to step, what is not; and the peak."""

import contextlib
import ctypes
import os
import re
import resource
import sys
from pathlib import Path

# Options of glibc's mallopt (man 3 mallopt): buffers below the first come from the heap, the heap is trimmed above the second.
MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
LARGEST = 2**30
NEVER = 2**31 - 1
# oneDNN keeps a compiled product for every shape it has seen, 1024 of them, and each step has another number of tokens: 20 MB
# a step on SmolLM2-135M, 1 GB in the end. A step needs about 20; with 64 it is as fast.
PRIMITIVES = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


def steady() -> bool:
    """Bound oneDNN's cache (before its first product), and ask glibc to keep freed buffers; False where there is no glibc."""
    os.environ.setdefault(PRIMITIVES, "64")
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, NEVER))


def peak_memory(device: str) -> int:
    """Most memory held so far, bytes: of the device for CUDA, of the whole process for a CPU."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Peak:
    """Most memory this process holds from now on, above what it holds now (on a CPU; Linux resets its high-water mark)."""

    def __init__(self) -> None:
        import psutil

        with contextlib.suppress(OSError):  # another system, or a sandbox without it: the mark since the start counts
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.before = _status("VmRSS") or psutil.Process().memory_info().rss

    def bytes(self, otherwise: int) -> int:
        """``otherwise``: the peak as `peak_memory` has it; taken as it is for a GPU."""
        import torch

        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            return otherwise
        return max((_status("VmHWM") or otherwise) - self.before, 0)


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status; 0 where there is none."""
    file = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+) kB", file.read_text(encoding="ascii")) if file.is_file() else None
    return int(found[1]) * 1024 if found else 0
