"""A full disk ends a command with one paragraph and exit code 8, early where that can be known; nothing earlier is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_world import build_base, build_rows, build_tasks, write_recipe

from retain.errors import EnvironmentFault, refusal_of_machine


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build_base(folder / "base")
    build_tasks(folder / "tasks")
    build_rows(folder)
    write_recipe(folder, "careful", {"method": "lora"}, replay=0.05)
    return folder


def retain(world: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "RETAIN_HOME": str(world / "home"),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "retain_pipelines.cli", *arguments]
    return subprocess.run(command, env=environment, cwd=world, capture_output=True, text=True, check=False)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("small_disk", [300], indirect=True)  # room for the compiled pipeline, not for the model
def test_a_run_without_room_for_the_model_is_refused_in_its_first_task(world: Path, small_disk: Path) -> None:
    done = retain(world, "run", "careful.yaml", "--runs", str(small_disk))
    shown = done.stdout + done.stderr
    assert done.returncode == 8, shown[-3000:]
    assert "too little room on the disk" in shown
    assert "── validate" not in shown
    assert "Traceback" not in shown


def test_a_disk_that_fills_up_in_a_step_is_said_and_no_half_artifact_is_left(world: Path, small_disk: Path) -> None:
    assert retain(world, "validate", "careful.yaml", "--out", "out").returncode == 0
    (small_disk / "ballast").write_bytes(b"0" * 140_000)
    done = retain(world, "validate", "careful.yaml", "--out", str(small_disk / "out"))
    assert done.returncode == 8, done.stderr[-3000:]
    assert "disk is full" in done.stderr or "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (small_disk / "out/dataset/info.json").exists()
    assert (world / "out/dataset/info.json").exists()


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (OSError(28, "No space left on device", "model.safetensors"), "disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (PermissionError(13, "Permission denied", "adapter"), "may not be written"),
    ],
)
def test_the_machines_refusal_is_known_behind_any_library(error: Exception, word: str) -> None:
    wrapped = ValueError("while saving")
    wrapped.__cause__ = error
    fault = refusal_of_machine(wrapped)
    assert isinstance(fault, EnvironmentFault)
    assert word in fault.what
    assert refusal_of_machine(ValueError("another's")) is None
