"""The bench for the day a GPU is at hand: it stops in words where there is none, and asks for what the settings know."""

import argparse
import importlib.util
from pathlib import Path

import pytest
import torch

from retain.train.config import TrainConfig
from retain.train.rules import check

SPEC = importlib.util.spec_from_file_location("bench_gpu", Path(__file__).with_name("bench_gpu.py"))
assert SPEC
assert SPEC.loader
bench_gpu = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench_gpu)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here it would run")
def test_without_a_gpu_it_stops_in_words() -> None:
    with pytest.raises(SystemExit, match="torch sees none here: run it where there is one"):
        bench_gpu.main([])


@pytest.mark.parametrize("name", bench_gpu.TRAININGS)
def test_its_settings_are_a_recipe_s(name: str) -> None:
    settings = bench_gpu.TRAININGS[name][2]
    check(TrainConfig(device="cuda", max_steps=12, **settings), "cuda:0")


def test_a_training_of_it_runs_in_small(tmp_path: Path) -> None:
    given = argparse.Namespace(size="tiny", device="cpu", steps=3)
    assert bench_gpu.base("base", tmp_path, given) == "0.00 B parameters"
    found = bench_gpu.training("LoRA, rows of 4096", tmp_path, given)
    assert found["rate"] > 0
    assert found["whole"] >= found["steps"] > 0
    assert found["planned"] > 0
