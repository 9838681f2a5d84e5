"""What every bench says first, and how its table is written: Markdown that can be pasted into pipelines/EVIDENCE.md."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Public data files, no part of the repository: RETAIN_DATA, or beside the checkout.
DATA = Path(os.environ.get("RETAIN_DATA") or ROOT.parent / "shared" / "data")


def line(what: str, packages: Sequence[str]) -> str:
    """Machine, load, commit and versions in one line."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()  # fmt: skip
    threads = os.environ.get("OMP_NUM_THREADS") or os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{what}, {platform.machine()}, {os.cpu_count()} cores, threads: {threads}{load}; commit {commit or 'unknown'}; {versions}.\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
