"""Where and in which precision a scoring runs, resolved without torch where there is no GPU: it is part of the cache key."""

import ctypes
from dataclasses import dataclass
from pathlib import Path

from retain.score.config import ScoreConfig

# CPUs whose vector units make bf16 faster than fp32 (the rule of retain.models.torch_dtype, read from /proc/cpuinfo).
BF16_FLAGS = ({"avx512_bf16"}, {"amx_bf16"}, {"avx512vl", "avx512bw", "avx512dq"})
# On a CPU small batches stay in its cache: 256 to 512 tokens are the fastest from one thread to two, 1024 a third slower.
BATCH_TOKENS = {"cpu": 512, "cuda": 16384}


@dataclass(frozen=True)
class Place:
    """device: as torch names it; dtype: bf16, fp16 or fp32; budget: tokens in a batch."""

    device: str
    dtype: str
    budget: int

    @property
    def kind(self) -> str:
        return self.device.split(":")[0]


def resolve(config: ScoreConfig) -> Place:
    device = config.device
    if device.startswith("cuda") or (device == "auto" and _has_gpu()):
        from retain import models

        device = models.pick_device(device)
    device = "cpu" if device == "auto" else device
    return Place(device, _dtype(config.dtype, device), config.batch_tokens or BATCH_TOKENS[device.split(":")[0]])


def _dtype(name: str, device: str) -> str:
    if name != "auto":
        return name
    if device == "cpu":
        return "bf16" if any(flags <= _cpu_flags() for flags in BF16_FLAGS) else "fp32"
    from retain import models

    return {"bfloat16": "bf16", "float32": "fp32"}[str(models.torch_dtype("auto", device)).removeprefix("torch.")]


def _has_gpu() -> bool:
    """Does the NVIDIA driver see a device? (Asking it costs milliseconds, importing torch seconds.)"""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def _cpu_flags() -> set[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
