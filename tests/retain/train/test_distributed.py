"""Two processes with gloo have the loss curve of one process with the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from .conftest import QUICK, Trained

SCRIPT = """
import json, os, sys
import torch
from pathlib import Path
from retain.train.config import TrainConfig
from retain.train.work import train
mixture, model, out = map(Path, sys.argv[2:])
for name, config in json.loads(sys.argv[1]).items():
    def run():
        return train(TrainConfig(**config), mixture, model, out / name / "adapter", out / name / "checkpoints")
    whole = run()
    if config.get("sharding") == "fsdp":  # as if killed behind its first checkpoint
        if os.environ["RANK"] == "0":
            next((out / name / "checkpoints").glob("*/step-00000006")).rename(out / name / "gone")
        torch.distributed.barrier()
        again = run()
        assert (again.resumed_at, again.adapter_digest) == (3, whole.adapter_digest), again
"""
RUNS: dict[str, dict[str, Any]] = {
    "lora, divergence, odd batches": {"kl": {"beta": 1.0}, "batch_rows": 3},
    "full": {"method": "full", "learning_rate": 1e-3},
    "lora, split": {"sharding": "fsdp", "kl": {"beta": 1.0}, "micro_tokens": 48},
    "full, split": {"sharding": "fsdp", "method": "full", "learning_rate": 1e-3},
}


STOPPED = """
import os, signal, sys
from pathlib import Path
import json
from retain.errors import Interrupted
from retain.train.config import TrainConfig
from retain.train.engine import Engine
from retain.train.work import train
config, (mixture, model, out) = json.loads(sys.argv[1]), map(Path, sys.argv[2:])
step_of = Engine.training_step
def step(self, *given):
    if self.state.global_step == 2 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)  # as when one spot node is taken away
    return step_of(self, *given)
Engine.training_step = step
try:
    train(TrainConfig(**config), mixture, model, out / "adapter", out / "checkpoints")
except Interrupted as error:
    assert "at step 3 of 6" in str(error), error
else:
    raise AssertionError("nobody stopped")
"""


def torchrun(configs: dict[str, Any], mixture: Path, model: Path, out: Path, text: str = SCRIPT) -> None:
    script = out.parent / "run.py"
    script.write_text(text)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), json.dumps(configs), str(mixture), str(model), str(out)]  # fmt: skip
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, said = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun ends its workers
            raise
    assert process.returncode == 0, said[-3000:]


JUDGED: dict[str, dict[str, Any]] = {"kto, odd batches": {"objective": "kto", "batch_rows": 3}}


def test_two_processes_are_one(trained: Trained, tmp_path: Path, mixture: Path, tiny_llama: Path) -> None:
    configs = {name: {k: v for k, v in (QUICK | run).items() if not (run.get("method") == "full" and k == "lora")} for name, run in RUNS.items()}  # fmt: skip
    torchrun(configs, mixture, tiny_llama, tmp_path / "two")
    for name, run in RUNS.items():
        trained(f"one/{name}", **{k: v for k, v in run.items() if k != "sharding"})
        one, two = (json.loads((tmp_path / n / name / "adapter" / "losses.json").read_text()) for n in ("one", "two"))
        for curve in ("train", "target_validation", "retention"):
            assert [step for step, _ in one[curve]] == [step for step, _ in two[curve]]
            assert [loss for _, loss in two[curve]] == pytest.approx([loss for _, loss in one[curve]], abs=2e-5)
        weights = [load_file(next((tmp_path / n / name / "adapter").glob("*.safetensors"))) for n in ("one", "two")]
        assert weights[0].keys() == weights[1].keys()
        for key, value in weights[0].items():
            assert (weights[1][key] - value).abs().max() < 1e-4, key


def test_a_signal_to_one_process_stops_all_with_one_whole_checkpoint(trained: Trained, tmp_path: Path, mixture: Path, tiny_llama: Path) -> None:  # fmt: skip
    torchrun(QUICK, mixture, tiny_llama, tmp_path / "run", STOPPED)
    assert not (tmp_path / "run" / "adapter" / "retain.json").exists()
    assert trained("run").resumed_at == 3  # another number of processes goes on from it
