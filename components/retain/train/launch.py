"""A training on all GPUs of one machine: torchrun, one process a GPU, over a workspace."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from retain import models
from retain.steps import die_with_parent
from retain.train.config import TrainConfig
from retain.train.device import check_count
from retain.train.work import TrainResult
from retain.train.workspace import Log, Workspace

POLL_SECONDS = 1.0
GRACE_SECONDS = 60.0  # for a checkpoint, when this process is asked to end


def processes(config: TrainConfig) -> int:
    """How many are to train together here: as the recipe says, or one for each GPU that it may use."""
    if config.processes != "auto":
        return int(config.processes)
    return _gpus() if models.pick_device(config.device) == "cuda" else 1


def _gpus() -> int:
    import torch

    return int(torch.cuda.device_count())


def train(count: int, config: TrainConfig, base: Mapping[str, str], mixture: Path, adapter: Path, log: Log) -> TrainResult:  # fmt: skip
    """The same training as in one process, by ``count`` of them; ends with the error that one of them ended with."""
    if models.pick_device(config.device) != "cpu":
        check_count(count, _gpus(), "processes", count)
    work = Workspace(config, base, mixture)
    work.forget()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "--module", "retain.train.node", str(work.folder)]  # fmt: skip
    paths = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, preexec_fn=die_with_parent) as process:
        try:
            while process.poll() is None:
                work.pass_on(log)
                time.sleep(POLL_SECONDS)
        except BaseException:
            _end(process)
            raise
    work.pass_on(log)
    return work.result(adapter, f"torchrun ended with {process.returncode}" if process.returncode else "")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask for a checkpoint, and wait for it."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
