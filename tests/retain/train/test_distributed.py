"""Two processes with gloo have the loss curve of one process with the same global batch."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from retain import artifacts

from .conftest import QUICK, Trained
from .judged import judged_rows

# Every run in one pair of processes: they import for longer than they train.
SCRIPT = """
import json, os, signal, sys
import torch
from pathlib import Path
from retain.errors import Interrupted
from retain.train.config import TrainConfig
from retain.train.engine import Engine
from retain.train.work import train

def stopping(step_of):
    def step(self, *given):
        if self.state.global_step == 2 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)  # as when one spot node is taken away
        return step_of(self, *given)
    return step

runs, (mixtures, model, out) = json.loads(sys.argv[1]), map(Path, sys.argv[2:])
for name, config in runs.items():
    rows = mixtures / config.get("objective", "sft")
    def run():
        return train(TrainConfig(**config), rows, model, out / name / "adapter", out / name / "checkpoints")
    if name == "stopped":
        step_of, Engine.training_step = Engine.training_step, stopping(Engine.training_step)
        try:
            run()
        except Interrupted as error:
            assert "at step 3 of 6" in str(error), error
        else:
            raise AssertionError("nobody stopped")
        Engine.training_step = step_of
        continue
    whole = run()
    if "sharding" in config:  # as if killed behind its first checkpoint
        if os.environ["RANK"] == "0":
            next((out / name / "checkpoints").glob("*/step-00000006")).rename(out / name / "gone")
        torch.distributed.barrier()
        again = run()
        assert (again.resumed_at, again.adapter_digest) == (3, whole.adapter_digest), again
"""
FULL: dict[str, Any] = {"method": "full", "learning_rate": 1e-3, "lora": {}}
SPLIT: dict[str, Any] = {"kl": {"beta": 1.0}, "micro_tokens": 48}
RUNS: dict[str, dict[str, Any]] = {
    "lora, divergence, odd batches": {"kl": {"beta": 1.0}, "batch_rows": 3},
    "full": FULL,
    "lora, split": {"sharding": "fsdp", **SPLIT},
    "full, split": {"sharding": "fsdp", **FULL},
    "kto, odd batches": {"objective": "kto", "batch_rows": 3},  # measures its drift over both processes
}
ZERO = {"lora, zero": {"sharding": "zero2", **SPLIT}, "full, zero": {"sharding": "zero2", **FULL}}
INSTALLED = ZERO if importlib.util.find_spec("deepspeed") else {}


@pytest.fixture(scope="module")
def mixtures(mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixtures")
    (folder / "sft").symlink_to(mixture)
    artifacts.write_rows(folder / "kto", "retain.mixture/1", judged_rows("kto"))
    return folder


@pytest.fixture(scope="module")
def two(mixtures: Path, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have trained each of RUNS, one that was stopped by a signal to the second, and those of deepspeed, which
    accelerate does not let go again."""
    out = tmp_path_factory.mktemp("two")
    script = out / "run.py"
    script.write_text(SCRIPT)
    runs = {name: QUICK | run for name, run in {**RUNS, "stopped": {}, **INSTALLED}.items()}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), json.dumps(runs), str(mixtures), str(tiny_llama), str(out)]  # fmt: skip
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, said = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun ends its workers
            raise
    assert process.returncode == 0, said[-3000:]
    return out


@pytest.mark.parametrize("name", {**RUNS, **INSTALLED})
def test_two_processes_are_one(name: str, two: Path, mixtures: Path, trained: Trained, tmp_path: Path) -> None:
    run = {key: value for key, value in {**RUNS, **INSTALLED}[name].items() if key != "sharding"}
    trained("one", rows=mixtures / run.get("objective", "sft"), **run)
    one, other = (json.loads((folder / "adapter/losses.json").read_text()) for folder in (tmp_path / "one", two / name))
    for curve in ("train", "target_validation", "retention"):
        assert [step for step, _ in one[curve]] == [step for step, _ in other[curve]]
        assert [loss for _, loss in other[curve]] == pytest.approx([loss for _, loss in one[curve]], abs=2e-5)
    weights = [load_file(next((folder / "adapter").glob("*.safetensors"))) for folder in (tmp_path / "one", two / name)]
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        assert (weights[1][key] - value).abs().max() < 1e-4, key


def test_a_signal_to_one_process_stops_all_with_one_whole_checkpoint(two: Path, trained: Trained) -> None:
    assert not (two / "stopped/adapter/retain.json").exists()
    again = trained("stopped", checkpoints=str(two / "stopped/checkpoints"))
    assert again.resumed_at == 3  # another number of processes goes on from it
