"""One process has one device; memory that runs out says what to lower."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from retain.errors import ConfigError, EnvironmentFault
from retain.train import checkpoints, device, launch, speed
from retain.train.arguments import arguments
from retain.train.config import TrainConfig


def test_a_process_has_the_gpu_it_was_given_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not cuda:0, and not all GPUs of the machine in one process (DataParallel)."""
    given = arguments(TrainConfig(), speed.Choices(), 3, tmp_path, "cuda:1")
    given._n_gpu = 4  # as transformers counts them
    assert (given.device, given.n_gpu) == (torch.device("cuda:1"), 1)
    assert Accelerator().device == torch.device("cuda:1")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_more_gpus_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device.check_count(2, 2, "device", 1)
    with pytest.raises(ConfigError, match=r"not so many GPUs\n  where: train.device\n  got: 2\n  expected: 2 of them"):
        device.check_count(3, 2, "device", 2)
    monkeypatch.setattr("retain.models.pick_device", lambda name: "cuda")
    monkeypatch.setattr(launch, "_gpus", lambda: 2)
    with pytest.raises(ConfigError, match=r"train.processes\n  got: 4\n  expected: at most 2"):
        launch.train(4, TrainConfig(processes=4), {}, tmp_path, tmp_path, lambda metrics, step: None)


def test_memory_that_runs_out_says_what_to_lower() -> None:
    with (
        pytest.raises(EnvironmentFault, match=r"memory of cpu is full(.|\n)*lower train.micro_tokens(.|\n)*use train.method: qlora"),
        device.explained(TrainConfig(), "cpu"),
    ):  # fmt: skip
        torch.empty(2**60)
    with pytest.raises(EnvironmentFault, match="adamw_8bit"), device.explained(TrainConfig(method="full"), "cuda:0"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    with pytest.raises(RuntimeError, match="shapes"), device.explained(TrainConfig(), "cpu"):
        raise RuntimeError("shapes do not match")


def test_each_process_goes_on_with_its_own_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    states, drawn = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        states.append(checkpoints.random_state())
        drawn.append(float(torch.rand(1)))
    for rank, expected in ((0, drawn[0]), (1, drawn[1]), (2, drawn[0])):  # the third was not there before
        monkeypatch.setenv("RANK", str(rank))
        checkpoints.restore_random(states)
        assert float(torch.rand(1)) == expected


def test_a_process_that_is_not_the_first_shows_no_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    from retain.progress import Progress

    for rank, shown in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        with Progress("train", total=2) as progress:
            progress.advance(2)
        assert bool(capsys.readouterr().err) is shown
