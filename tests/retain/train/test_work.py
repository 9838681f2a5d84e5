"""The whole step on a tiny model: it learns, writes, resumes, repeats and stops as it says."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from retain import digest, models
from retain.errors import ConfigError, Diverged, IntegrityError

from .conftest import Trained


def test_lora_learns_and_writes_an_adapter_that_peft_loads(trained: Trained, tmp_path: Path, tiny_llama: Path) -> None:
    result = trained(max_steps=12)
    assert result.target_validation_nats < result.base_target_validation_nats - 0.02
    adapter = tmp_path / "run" / "adapter"
    card = json.loads((adapter / "retain.json").read_text())
    assert card["schema"] == "retain.adapter/1"
    assert card["kind"] == "peft"
    assert card["base_digest"] == digest.of_model(tiny_llama)
    assert card["template_digest"] == "sha256:template"
    from peft import PeftModel

    base = models.load_model(tiny_llama, dtype="fp32")
    ids = torch.arange(10, 20)[None]
    before = base(input_ids=ids).logits
    after = PeftModel.from_pretrained(base, str(adapter))(input_ids=ids).logits
    assert (before - after).abs().max() > 1e-3


def test_full_writes_the_weights_it_changed(trained: Trained, tmp_path: Path, tiny_llama: Path) -> None:
    result = trained(method="full", learning_rate=1e-3)
    adapter = tmp_path / "run" / "adapter"
    weights, base = load_file(adapter / "model.safetensors"), load_file(tiny_llama / "model.safetensors")
    assert weights.keys() == base.keys()
    assert any(not torch.equal(weights[name], base[name]) for name in base)
    assert result.trainable_parameters == sum(w.numel() for w in base.values())
    assert json.loads((adapter / "retain.json").read_text())["kind"] == "weights"
    models.load_model(adapter, dtype="fp32")  # Hugging Face layout


def test_the_adapter_starts_exactly_at_the_base(trained: Trained) -> None:
    losses = {}
    trained(log=lambda metrics, step: losses.setdefault(step, metrics), max_steps=1)
    trained("full", method="full", log=lambda metrics, step: losses.setdefault(-1, metrics), max_steps=1)
    assert losses[0]["target_validation_nats"] == losses[-1]["target_validation_nats"]


def test_same_seed_same_bytes_other_seed_other_bytes(trained: Trained) -> None:
    one, again, other = trained("a"), trained("b"), trained("c", seed=1)
    assert one.adapter_digest == again.adapter_digest != other.adapter_digest


def test_the_split_into_micro_batches_changes_nothing(trained: Trained) -> None:
    whole, parts, padded = trained("a"), trained("b", micro_tokens=40), trained("c", packing="padded")
    assert parts.train_loss_nats == pytest.approx(whole.train_loss_nats, abs=1e-5)
    assert padded.train_loss_nats == pytest.approx(whole.train_loss_nats, abs=1e-5)


def test_a_rate_that_blows_up_is_an_error_with_advice(trained: Trained) -> None:
    with pytest.raises(Diverged, match=r"lower train\.learning_rate"):
        trained(method="full", learning_rate=1e6, max_steps=20, divergence_nats=1.0)


def test_a_target_module_that_matches_nothing_lists_the_candidates(trained: Trained) -> None:
    with pytest.raises(ConfigError, match="gate_proj") as error:
        trained(lora={"target_modules": ["gate_prj"]})
    assert "did you mean 'gate_proj'" in str(error.value)


def test_training_stops_when_the_general_loss_rises(trained: Trained) -> None:
    result = trained(
        method="full",
        learning_rate=0.1,
        max_steps=12,
        eval_steps=1,
        early_stopping={"patience": 0, "max_retention_rise_nats": 0.01},
        divergence_nats=50,
    )
    assert "general rows rose" in result.stopped
    assert result.steps < 12


def test_training_stops_when_the_target_no_longer_gains(trained: Trained) -> None:
    result = trained(learning_rate=0.05, max_steps=40, eval_steps=2, early_stopping={"patience": 1, "min_delta_nats": 1.0, "max_retention_rise_nats": 0}, divergence_nats=50)  # fmt: skip
    assert result.stopped == "1 evaluations without a better target loss"
    assert result.best_step == 2
    assert result.steps == 4
    again = trained("again", checkpoints="run/checkpoints", learning_rate=0.05, max_steps=40, eval_steps=2, early_stopping={"patience": 1, "min_delta_nats": 1.0, "max_retention_rise_nats": 0}, divergence_nats=50)  # fmt: skip
    assert (again.steps, again.adapter_digest) == (4, result.adapter_digest)


def test_the_best_weights_are_kept(trained: Trained, tmp_path: Path) -> None:
    rules = {"patience": 1, "min_delta_nats": 1.0, "max_retention_rise_nats": 0}
    best = trained("best", learning_rate=0.05, max_steps=40, eval_steps=2, early_stopping=rules)
    last = trained("last", learning_rate=0.05, max_steps=40, eval_steps=2, early_stopping={**rules, "keep_best": False})
    assert best.steps == last.steps
    assert best.adapter_digest != last.adapter_digest


def test_a_rate_above_the_known_range_warns(trained: Trained) -> None:
    assert "above" in trained(max_steps=1).warnings[0]
    assert trained("low", max_steps=1, learning_rate="auto").warnings == ()


def test_a_finished_run_is_not_trained_again(trained: Trained) -> None:
    one = trained("a", checkpoints="shared")
    again = trained("b", checkpoints="shared")
    assert again.resumed_at == again.steps == one.steps
    assert again.adapter_digest == one.adapter_digest


def test_a_checkpoint_of_another_recipe_is_refused(trained: Trained, tmp_path: Path) -> None:
    trained("a", checkpoints="shared")
    other = trained("b", checkpoints="shared", seed=3)
    assert other.resumed_at == 0
    checkpoint = next((tmp_path / "shared").glob("*/step-*"))
    with pytest.raises(IntegrityError, match="another recipe"):
        trained("c", checkpoints="shared", seed=4, resume=str(checkpoint))
