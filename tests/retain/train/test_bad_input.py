"""What a hurried person hands over: no traceback, and a word on what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import artifacts
from retain.errors import ConfigError, DataRefused, IntegrityError
from retain.train import door, load
from retain.train.config import TrainConfig
from retain.train.rows import read_mixture

from .conftest import QUICK, Trained, token_rows


@pytest.fixture
def mixed(tmp_path: Path) -> Callable[..., Path]:
    def make(change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Path:
        rows = [row | change(i, row) for i, row in enumerate(token_rows())]
        artifacts.write_rows(tmp_path / "mixture", "retain.mixture/1", rows)
        return tmp_path / "mixture"

    return make


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda i, row: {"input_ids": [t + 9999 for t in row["input_ids"]]}, r"does not know(.|\n)*expected: 0 to 329"),
        (
            lambda i, row: {"input_ids": [-t for t in row["input_ids"]]},
            "does not know(.|\n)*run template and mix again",
        ),
        (lambda i, row: {"weight": 0.0}, "a number above 0"),
        (lambda i, row: {"input_ids": [], "labels": []}, "has no tokens"),
    ],
)
def test_rows_that_would_end_a_process_are_refused_by_name(change: Any, reason: str, mixed: Callable[..., Path], trained: Trained) -> None:  # fmt: skip
    with pytest.raises(DataRefused, match=reason):
        trained(rows=mixed(change))


def test_rows_that_are_too_long_are_told_at_once_and_by_source(mixed: Callable[..., Path]) -> None:
    folder = mixed(lambda i, row: {"source": "books", "input_ids": [3] * (40 + i), "labels": [3] * (40 + i)} if i % 2 else {})  # fmt: skip
    with pytest.raises(
        DataRefused, match=r"12 rows are longer(.|\n)*row-23(.|\n)*63 tokens in the longest; 12 of books"
    ):
        read_mixture(folder, longest=32)


def test_a_damaged_file_of_rows_is_named(mixed: Callable[..., Path], trained: Trained) -> None:
    folder = mixed(lambda i, row: {})
    file = next(folder.glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(IntegrityError, match="a file of rows is damaged"):
        trained(rows=folder)


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_a_base_that_cannot_be_opened(method: str, tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_llama, tmp_path / "base")
    config = TrainConfig(method=method, device="cpu")
    (tmp_path / "base/model.safetensors").write_bytes((tiny_llama / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(IntegrityError, match="cannot be opened"):
        load.load_base(config, tmp_path / "base", "cpu")
    settings = json.loads((tiny_llama / "config.json").read_text())
    for kind, reason in (("never-heard-of", "does not know this kind"), ("vit", "does not know this kind")):
        (tmp_path / "base/config.json").write_text(json.dumps(settings | {"model_type": kind}))
        with pytest.raises(ConfigError, match=reason):
            load.load_base(config, tmp_path / "base", "cpu")


def test_a_checkpoint_that_is_not_there(trained: Trained) -> None:
    with pytest.raises(ConfigError, match="no such checkpoint"):
        trained(resume="/nowhere/step-00000002")


def test_a_rate_above_the_range_is_said_where_a_person_looks(mixture: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(door, "base_folder", lambda base: tiny_llama)
    door.run({**QUICK, "max_steps": 1}, {}, str(mixture), *(str(tmp_path / name) for name in ("adapter", "history.json", "metrics.json")))  # fmt: skip
    assert "warning: train.learning_rate 0.01 is above 0.0005" in capsys.readouterr().out
