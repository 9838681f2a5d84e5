"""Threads: as many as a control group grants, and none that spins through the slice of another process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from retain import processors

MINE = len(os.sched_getaffinity(0))
ASK = "import retain, torch, os, json; print(json.dumps([os.environ.get('GOMP_SPINCOUNT'), torch.get_num_threads()]))"


def groups(folder: Path, own: str, **files: str) -> tuple[Path, Path]:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_max", ".max").replace("_quota", ".cfs_quota_us").replace("_period", ".cfs_period_us")  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    mine = folder / "self"
    mine.write_text(own)
    return folder, mine


@pytest.mark.parametrize(
    ("own", "files", "granted"),
    [
        ("0::/\n", {"cpu_max": "100000 100000\n"}, 1),  # a pod sees its own group as the root
        ("0::/\n", {"cpu_max": "10000 100000\n"}, 1),  # a tenth of a processor is still one thread
        ("0::/pods/a\n", {"pods__cpu_max": "50000 100000\n", "pods__a__cpu_max": "max 100000\n"}, 1),
        ("0::/elsewhere\n", {"cpu_max": "100000 100000\n"}, 1),  # the host's name of a group that is the root here
        ("4:cpu:/x\n", {"cpu__cpu_quota": "100000\n", "cpu__cpu_period": "100000\n"}, 1),
        ("4:cpu,cpuacct:/x\n", {"cpu__x__cpu_quota": "100000\n", "cpu__x__cpu_period": "100000\n"}, 1),
        ("4:cpuset:/x\n", {"cpu__cpu_quota": "100000\n", "cpu__cpu_period": "100000\n"}, MINE),
        ("4:cpu:/x\n", {"cpu__cpu_quota": "-1\n", "cpu__cpu_period": "100000\n"}, MINE),
        ("0::/\n", {"cpu_max": "max 100000\n"}, MINE),
        ("0::/\n", {"cpu_max": f"{(MINE + 3) * 100000} 100000\n"}, MINE),
        ("0::/\n", {"cpu_max": "nonsense\n"}, MINE),
    ],
)
def test_a_limit_counts_where_it_is_less_than_the_machine(
    tmp_path: Path, own: str, files: dict[str, str], granted: int
) -> None:
    assert processors.count(*groups(tmp_path, own, **files)) == granted


def test_no_control_groups_no_limit(tmp_path: Path) -> None:
    assert processors.count(tmp_path / "none", tmp_path / "none") == MINE


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, processors.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_torch_starts_with_these_settings_and_the_users_stay(given: dict[str, str], spins: str | None) -> None:
    bare = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", ASK], env=bare | given, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [spins, processors.count()]


def test_a_smaller_grant_sets_torchs_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "count", lambda: MINE - 1)
    one, two = dict[str, str](), {"OMP_NUM_THREADS": "9"}
    processors.settle(one)
    processors.settle(two)
    assert (one["OMP_NUM_THREADS"], two["OMP_NUM_THREADS"]) == (str(MINE - 1), "9")
