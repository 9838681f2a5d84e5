"""A training that is killed goes on from its last whole checkpoint and ends with the same bytes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import QUICK, Trained

SCRIPT = """
import json, os, sys, time
from pathlib import Path
from retain.errors import RetainError
from retain.train.config import TrainConfig
from retain.train.work import train
config, mixture, model, out = TrainConfig(**json.loads(sys.argv[1])), *map(Path, sys.argv[2:])
def log(metrics, step):
    print(step, flush=True)
    time.sleep(0.05)
try:
    train(config, mixture, model, out / "adapter", out / "checkpoints", log)
except RetainError as error:
    print(error, file=sys.stderr)
    sys.exit(int(error.exit_code))
"""
CONFIG = {**QUICK, "max_steps": 12, "eval_steps": 6, "save_steps": 2, "lora": {"r": 4, "dropout": 0.1}}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 130)])
def test_a_killed_training_ends_with_the_same_bytes(number: int, code: int, trained: Trained, tmp_path: Path, mixture: Path, tiny_llama: Path) -> None:  # fmt: skip
    whole = trained("whole", **{k: v for k, v in CONFIG.items() if k not in QUICK or QUICK[k] != v})
    out = tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT, json.dumps(CONFIG), str(mixture), str(tiny_llama), str(out)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 5:
                process.send_signal(number)
                break
        process.stdout.read()
    assert process.returncode == code
    assert not (out / "adapter" / "retain.json").exists()
    again = trained("killed", **{k: v for k, v in CONFIG.items() if k not in QUICK or QUICK[k] != v})
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
