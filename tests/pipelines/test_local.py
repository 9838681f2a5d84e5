"""The laptop's engine and its guard, on small pipelines that really run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retain.errors import EnvironmentFault, UsageError
from retain_pipelines import local

TOY = Path(__file__).with_name("toy_pipelines.py")
QUIET = {"show": lambda line: None}


@pytest.fixture(scope="module")
def specs() -> dict[str, dict]:
    """The toy pipelines, compiled in one process of their own."""
    done = subprocess.run([sys.executable, str(TOY)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_closed_gate_is_red_and_keeps_its_exit_code(specs: dict, tmp_path: Path) -> None:
    ran = local.run(
        specs["gated"],
        {"ending": "stop-regressed"},
        tmp_path / "run",
        finals=("publish", "stop-regressed"),
        cache=None,
        **QUIET,
    )
    assert (ran.exit_code, ran.endings["stop-regressed"]) == (3, 3)
    assert "3 points" in ran.message
    assert "publish" not in ran.endings


def test_an_open_gate_is_green_and_unchanged_steps_are_kept(specs: dict, tmp_path: Path) -> None:
    lines: list[str] = []
    for number in ("one", "two"):
        ran = local.run(
            specs["gated"],
            {"ending": "publish"},
            tmp_path / number,
            finals=("publish", "stop-regressed"),
            cache=tmp_path / "cache",
            show=lines.append,
        )
        assert ran.exit_code == 0
        assert ran.endings["publish"] == 0
    assert ran.cached == ["work"]
    assert "── work  (unchanged: kept from an earlier run)" in "".join(lines)
    assert "executor_output" not in "".join(lines), "the engine's dumps are not shown"


def test_a_branch_on_a_named_output_is_refused(specs: dict, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="branch on the named output 'word'"):
        local.run(specs["named"], {}, tmp_path / "run", finals=("end",), cache=None, **QUIET)


def test_a_run_that_ends_in_no_final_task_is_lost_never_green(specs: dict, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="the local run was lost"):
        local.run(
            specs["gated"],
            {"ending": "nowhere"},
            tmp_path / "run",
            finals=("publish", "stop-regressed"),
            cache=None,
            **QUIET,
        )


def test_a_quote_in_a_condition_is_not_taken_for_false(specs: dict, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="the local run was lost"):
        local.run(
            specs["gated"],
            {"ending": "it's"},
            tmp_path / "run",
            finals=("publish", "stop-regressed"),
            cache=None,
            **QUIET,
        )


def test_a_killed_wrapper_leaves_no_step_behind(specs: dict, tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(specs["slow"]))
    code = f"import json,sys;from pathlib import Path;from retain_pipelines import local;local.run(json.load(open({str(tmp_path / 'spec.json')!r})),{{'pid_file':{str(tmp_path / 'pid')!r}}},Path({str(tmp_path / 'run')!r}),finals=('end',),cache=None,show=print)"
    paths = os.pathsep.join(p for p in sys.path if p)
    wrapper = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.DEVNULL
    )
    step = _wait_for(tmp_path / "pid")
    wrapper.send_signal(signal.SIGKILL)
    wrapper.wait(timeout=10)
    for _ in range(100):
        if not _alive(step):
            return
        time.sleep(0.1)
    pytest.fail(f"step {step} outlived its run")


def _wait_for(path: Path) -> int:
    for _ in range(300):
        if path.is_file() and path.read_text():
            return int(path.read_text())
        time.sleep(0.1)
    raise TimeoutError(path)


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.is_file() and "State:\tZ" not in status.read_text()
