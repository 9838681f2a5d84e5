"""What a person can watch: every number that a training is followed by goes into the tracker's journal."""

import json
from pathlib import Path
from typing import Any

import pytest

from retain import artifacts, digest
from retain.train import door

from .conftest import QUICK, token_rows


def journal(home: Path) -> list[dict[str, Any]]:
    file = next(home.glob("runs/*/train/metrics.jsonl"))
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_losses_rate_norm_divergence_speed_and_memory_are_tracked(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RETAIN_RUN_ID", "watched")
    monkeypatch.setenv("RETAIN_TRACKING", "later")
    rows = (row | {"source": "made" if i % 3 else "other"} for i, row in enumerate(token_rows()))
    artifacts.write_rows(tmp_path / "mixture", "retain.mixture/1", rows)
    base = {"uri": str(tiny_llama), "revision": "", "digest": digest.of_model(tiny_llama)}
    config = {**QUICK, "kl": {"beta": 0.1}}
    facts = door.run(config, base, *(str(tmp_path / name) for name in ("mixture", "adapter", "history", "metrics")))
    said = journal(tmp_path / "home")
    seen: dict[str, list[tuple[int, float]]] = {}
    for line in said:
        for name, value in line["values"].items() if line["what"] == "metrics" else ():
            seen.setdefault(name, []).append((line["step"], value))
    for name in ("train_loss_nats", "learning_rate", "grad_norm", "tokens_per_second", "peak_memory_bytes"):
        assert [step for step, _ in seen[name]] == [1, 2, 3, 4, 5, 6], name
    for name in ("target_validation_nats", "target_validation_nats/made", "target_validation_nats/other", "retention_nats"):  # fmt: skip
        assert [step for step, _ in seen[name]] == [0, 3, 6], name
    assert seen["kl_to_base_nats"]  # of the steps that have a replay row
    assert seen["peak_memory_bytes"][-1][1] > 1e8
    assert seen["final/retention_nats"] == [(6, facts["retention_nats"])]
    tags = {name: value for line in said if line["what"] == "tags" for name, value in line["values"].items()}
    assert tags["adapter_digest"] == json.loads((tmp_path / "adapter" / "retain.json").read_text())["adapter_digest"]
    assert tags["stopped"] == "at its last step"
    assert json.loads((tmp_path / "history").read_text())["summary"] == facts
