"""The processors this process may use, and how its threads wait for one another: settled before torch is loaded."""

import math
import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

# A thread that waits for the others spins this often before it sleeps (libgomp's own: 300 000). On an idle machine it costs
# nothing; where one of two cores is busy with something else, training goes eleven times as fast (EVIDENCE.md, "A busy machine").
SPINS = "1000"


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what libgomp reads when torch loads it; what the user has set stays."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys():
        environment["GOMP_SPINCOUNT"] = SPINS
    granted = count()
    if (
        granted < _affinity()
    ):  # torch knows nothing of a pod's limit and would start a thread for every core of the node
        environment.setdefault("OMP_NUM_THREADS", str(granted))


def count(groups: Path = Path("/sys/fs/cgroup"), mine: Path = Path("/proc/self/cgroup")) -> int:
    """Whole processors: those of the process's affinity, or fewer where a control group (a pod's CPU limit) grants less."""
    return max(1, min([_affinity(), *(math.ceil(quota) for quota in _quotas(groups, mine))]))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quotas(groups: Path, mine: Path) -> Iterator[float]:
    """Processors granted by this process's group and those above it: cgroup v2's cpu.max, v1's cpu.cfs_quota_us."""
    try:
        lines = [line.split(":", 2) for line in mine.read_text().splitlines()]
    except OSError:
        return  # no Linux
    for _, controllers, own in lines:
        if not controllers:
            yield from _above(groups, own, "cpu.max")
        elif "cpu" in controllers.split(","):
            yield from _above(groups / "cpu", own, "cpu.cfs_quota_us", "cpu.cfs_period_us")


def _above(root: Path, own: str, *files: str) -> Iterator[float]:
    """What the group ``own`` and each one above it grant; a name that is the host's is not there, its root is."""
    inner = root / own.strip("/")
    for folder in [inner, *(p for p in inner.parents if p.is_relative_to(root))]:
        try:
            granted, period = " ".join((folder / file).read_text() for file in files).split()
            if granted not in ("max", "-1"):
                yield int(granted) / int(period)
        except (OSError, ValueError):
            continue
