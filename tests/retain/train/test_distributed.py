"""Two processes with gloo have the loss curve of one process with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import QUICK, Trained

SCRIPT = """
import json, sys
from pathlib import Path
from retain.train.config import TrainConfig
from retain.train.work import train
mixture, model, out = map(Path, sys.argv[2:])
for name, config in json.loads(sys.argv[1]).items():
    train(TrainConfig(**config), mixture, model, out / name / "adapter", out / name / "checkpoints")
"""
RUNS: dict[str, dict[str, Any]] = {
    "lora, divergence, odd batches": {"kl": {"beta": 1.0}, "batch_rows": 3},
    "full": {"method": "full", "learning_rate": 1e-3},
}


def torchrun(configs: dict[str, dict[str, Any]], mixture: Path, model: Path, out: Path) -> None:
    script = out.parent / "run.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), json.dumps(configs), str(mixture), str(model), str(out)]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


JUDGED: dict[str, dict[str, Any]] = {"kto, odd batches": {"objective": "kto", "batch_rows": 3}}


def test_two_processes_are_one(trained: Trained, tmp_path: Path, mixture: Path, tiny_llama: Path) -> None:
    configs = {name: {k: v for k, v in (QUICK | run).items() if not (run.get("method") == "full" and k == "lora")} for name, run in RUNS.items()}  # fmt: skip
    torchrun(configs, mixture, tiny_llama, tmp_path / "two")
    for name, run in RUNS.items():
        trained(f"one/{name}", **run)
        one, two = (json.loads((tmp_path / n / name / "adapter" / "losses.json").read_text()) for n in ("one", "two"))
        for curve in ("train", "target_validation", "retention"):
            assert [step for step, _ in one[curve]] == [step for step, _ in two[curve]]
            assert [loss for _, loss in two[curve]] == pytest.approx([loss for _, loss in one[curve]], abs=2e-5)
