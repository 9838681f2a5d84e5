"""A mixture of short rows for the tiny models, and one call that trains on it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retain import artifacts
from retain.train.config import TrainConfig
from retain.train.work import TrainResult, train

from .families import build

# Small, fast, and the same on every machine: fp32, no dropout, few steps.
QUICK: dict[str, Any] = {"dtype": "fp32", "device": "cpu", "batch_rows": 4, "max_steps": 6, "learning_rate": 1e-2, "eval_steps": 3, "lora": {"r": 4, "alpha": 8, "dropout": 0}, "early_stopping": {"patience": 0, "max_retention_rise_nats": 0}}  # fmt: skip


def token_rows(count: int = 24, *, vocabulary: int = 250, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Rows of 8 to 30 tokens that count upwards; the second half of each is supervised. Every fourth row is replay, the last eight validate."""
    random = np.random.default_rng(seed)
    for i in range(count):
        length, start = int(random.integers(8, 31)), int(random.integers(3, vocabulary - 40))
        ids = [start + n for n in range(length)]
        labels = [artifacts.IGNORED_LABEL] * (length // 2) + ids[length // 2 :]
        yield {
            "id": f"row-{i}", "source": "made", "part": "replay" if i % 4 == 3 else "target", "split": "validation" if i >= count - 8 else "train",
            "weight": 1.0 + (i % 3), "input_ids": ids, "labels": labels, "n_supervised": length - length // 2,
        }  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _imports_are_not_garbage() -> None:
    """accelerate collects garbage before every run: a second each time, unless what the imports made is set aside."""
    import gc

    import peft  # noqa: F401

    import retain.train.engine  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixture") / "mixture"
    artifacts.write_rows(folder, "retain.mixture/1", token_rows(), template_digest="sha256:template")
    return folder


Trained = Callable[..., TrainResult]


@pytest.fixture
def trained(tmp_path: Path, mixture: Path, tiny_llama: Path) -> Trained:
    """Train QUICK with changes; ``name`` keeps the folders of several runs apart."""

    def call(name: str = "run", *, model: Path = tiny_llama, rows: Path = mixture, log: Any = lambda m, s: None, checkpoints: str = "", **changes: Any) -> TrainResult:  # fmt: skip
        quick = (
            QUICK
            if changes.get("method", "lora") in ("lora", "qlora")
            else {k: v for k, v in QUICK.items() if k != "lora"}
        )
        config = TrainConfig(**{**quick, **changes})
        return train(
            config, rows, model, tmp_path / name / "adapter", tmp_path / (checkpoints or f"{name}/checkpoints"), log
        )

    return call


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        return made.setdefault(
            name, build(name, tmp_path_factory.mktemp(name) / "model") if name not in made else made[name]
        )

    return get


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources and targets for encoder-decoders."""
    folder = tmp_path_factory.mktemp("pairs") / "mixture"
    rows = [row | {"labels": [i + 1 for i in row["input_ids"][: 3 + n % 5]]} for n, row in enumerate(token_rows())]
    artifacts.write_rows(folder, "retain.mixture/1", rows)
    return folder
