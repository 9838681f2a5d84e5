"""A training that is killed goes on from its last whole checkpoint and ends with the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from retain.errors import EnvironmentFault, IntegrityError
from retain.train import checkpoints, places
from retain.train.optimizer import MasterAdamW

from .conftest import QUICK, Trained

# One process imports, and each training is a child of it: they import for longer than they train.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
from retain.errors import RetainError
from retain.train import engine, save, methods
from retain.train.config import TrainConfig
from retain.train.work import train
config, (mixture, model, out) = TrainConfig(**json.loads(sys.argv[1])), map(Path, sys.argv[2:5])
def go(name):
    def log(metrics, step):
        print(name, os.getpid(), step, flush=True)
        time.sleep(0.05)
    try:
        train(config, mixture, model, out / name / "adapter", out / name / "checkpoints", log)
    except RetainError as error:
        print(error, file=sys.stderr)
        os._exit(int(error.exit_code))
    os._exit(0)
for name in sys.argv[5:]:
    child = os.fork()
    if not child:
        go(name)
    print(name, "ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
CONFIG = {**QUICK, "max_steps": 12, "eval_steps": 6, "save_steps": 2, "lora": {"r": 4, "dropout": 0.1}}
SIGNALS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": 130}  # the exit code after it


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, mixture: Path, tiny_llama: Path) -> tuple[Path, dict[str, int]]:
    """(where each of SIGNALS ended a training at its fifth step, with which code)."""
    out, codes = tmp_path_factory.mktemp("killed"), {}
    command = [sys.executable, "-c", SCRIPT, json.dumps(CONFIG), str(mixture), str(tiny_llama), str(out), *SIGNALS]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            name, pid, word = line.split()
            if pid == "ended":
                codes[name] = int(word)
            elif int(word) == 5:
                os.kill(int(pid), signal.Signals[name])
    return out, codes


@pytest.mark.parametrize("name", SIGNALS)
def test_a_killed_training_ends_with_the_same_bytes(name: str, killed: tuple[Path, dict[str, int]], trained: Trained, tmp_path: Path) -> None:  # fmt: skip
    out, codes = killed
    assert codes[name] == SIGNALS[name]
    assert not (out / name / "adapter" / "retain.json").exists()
    changes = {k: v for k, v in CONFIG.items() if k not in QUICK or QUICK[k] != v}
    whole, again = (
        trained("whole", **changes),
        trained("killed", checkpoints=str(out / name / "checkpoints"), **changes),
    )
    assert again.resumed_at >= 4
    assert again.adapter_digest == whole.adapter_digest
    losses = [json.loads((tmp_path / name / "adapter" / "losses.json").read_text()) for name in ("whole", "killed")]
    assert losses[0] == losses[1]


def test_a_half_written_checkpoint_is_never_taken(trained: Trained, tmp_path: Path) -> None:
    trained("a", checkpoints="shared", save_steps=2)
    home = next((tmp_path / "shared").iterdir())
    last = max(home.glob("step-*"))
    last.rename(home / f".{last.name}.1.partial")
    again = trained("b", checkpoints="shared", save_steps=2)
    assert again.resumed_at == 4
    assert not list(home.glob(".step-*.partial"))


def test_only_as_many_checkpoints_as_asked_are_kept(trained: Trained, tmp_path: Path) -> None:
    trained(save_steps=1, keep_checkpoints=3)
    assert len(list((tmp_path / "run" / "checkpoints").glob("*/step-*"))) == 3


def test_resume_never_starts_anew(trained: Trained) -> None:
    trained("a", checkpoints="shared")
    assert trained("b", checkpoints="shared", resume="never").resumed_at == 0


def test_the_checkpoints_of_a_published_run_are_deleted_and_no_others(trained: Trained, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        trained(name, checkpoints="shared", seed=seed)
    assert len(list((tmp_path / "shared").iterdir())) == 2
    card = json.loads((tmp_path / "a" / "adapter" / "retain.json").read_text())
    assert card["peak_memory_bytes"] > 1e7
    places.discard("", tmp_path / "shared", card["checkpoint_key"])
    assert len(list((tmp_path / "shared").iterdir())) == 1
    assert trained("b2", checkpoints="shared", seed=1).resumed_at > 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("NO REAL FULL DISK WAS TRIED: this user may not mount a small one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_leaves_the_last_whole_checkpoint(small_disk: Path) -> None:
    """On a real file system: the message says what to do, nothing half-written is taken, and with more room it goes on."""
    optimizer = MasterAdamW([torch.nn.Parameter(torch.ones(2**17))], lr=0.1)  # half a MiB
    tensors = checkpoints.tensors_of(optimizer, [])
    checkpoints.save(small_disk, 1, "key", tensors, {}, 2, lambda folder: None)
    with pytest.raises(EnvironmentFault, match="No space left on device") as caught:
        checkpoints.save(small_disk, 2, "key", tensors, {}, 2, lambda folder: None)
    assert "goes on from the last whole checkpoint" in caught.value.fix
    found = checkpoints.find("auto", small_disk, "key")
    assert found is not None
    assert found.name == "step-00000001"
    assert not list(small_disk.glob(".step-*"))  # what was written of it is given back
    checkpoints.load(found, optimizer)


def test_a_checkpoint_folder_that_cannot_be_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(EnvironmentFault, match="could not be written"):
        checkpoints.save(tmp_path / "home", 1, "key", {"x": torch.ones(2)}, {}, 2, lambda folder: None)


def test_a_cut_checkpoint_and_one_from_elsewhere_are_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="missing or was not finished"):
        trained(resume=str(tmp_path))
