"""Flipping a knob changes the run; what cannot act is refused with its reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from retain import models
from retain.config import StepConfig
from retain.errors import ConfigError, DataRefused
from retain.train import bottleneck, rules
from retain.train.config import METHOD_RATES, TrainConfig
from retain.train.rules import READERS

from .conftest import QUICK, Trained

LORA = QUICK["lora"]
STEPS = {"max_steps": 3, "eval_steps": 3}

# (the run, the same run with one knob flipped); both end with other bytes.
FLIPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "learning_rate": ({}, {"learning_rate": 5e-3}),
    "batch_rows": ({}, {"batch_rows": 2}),
    "lr_scheduler_type": ({}, {"lr_scheduler_type": "linear"}),
    "warmup_ratio": ({}, {"warmup_ratio": 0.5}),
    "max_grad_norm": ({}, {"max_grad_norm": 1e-9}),
    "weight_decay": ({}, {"weight_decay": 0.5}),
    "max_steps": ({}, {"max_steps": 4}),
    "num_train_epochs": ({"max_steps": 0, "num_train_epochs": 1}, {"max_steps": 0, "num_train_epochs": 2}),
    "dtype": ({}, {"dtype": "bf16"}),
    "lora.r": ({}, {"lora": LORA | {"r": 3}}),
    "lora.alpha": ({}, {"lora": LORA | {"alpha": 9}}),
    "lora.dropout": ({}, {"lora": LORA | {"dropout": 0.2}}),
    "lora.target_modules": ({}, {"lora": LORA | {"target_modules": "attention-only"}}),
    "lora.use_rslora": ({}, {"lora": LORA | {"use_rslora": True}}),
    "lora.use_dora": ({}, {"lora": LORA | {"use_dora": True}}),
    "lora.init": ({}, {"lora": LORA | {"init": "gaussian"}}),
    "lora.layer_plan": ({}, {"lora": LORA | {"layer_plan": "thirds"}}),
    "lora.train_head": ({}, {"lora": LORA | {"train_head": True}}),
    "lora.rank_pattern": ({}, {"lora": LORA | {"rank_pattern": {"down_proj": 2}}}),
    "lora.alpha_pattern": ({}, {"lora": LORA | {"alpha_pattern": {"down_proj": 2}}}),
    "quant.kind": ({"method": "qlora"}, {"method": "qlora", "quant": {"kind": "fp4"}}),
    "quant.double": ({"method": "qlora"}, {"method": "qlora", "quant": {"double": False}}),
    "freeze.first_layers": ({"method": "freeze"}, {"method": "freeze", "freeze": {"first_layers": 0}}),
    "freeze.last_layers": ({"method": "freeze", "freeze": {"first_layers": 0}}, {"method": "freeze", "freeze": {"first_layers": 0, "last_layers": 1}}),
    "freeze.embeddings": ({"method": "freeze"}, {"method": "freeze", "freeze": {"embeddings": False}}),
    "freeze.patterns": ({"method": "freeze"}, {"method": "freeze", "freeze": {"patterns": ["mlp"]}}),
    "prompt.tokens": ({"method": "prefix"}, {"method": "prefix", "prompt": {"tokens": 3}}),
    "prompt.text": ({"method": "prompt"}, {"method": "prompt", "prompt": {"text": "the customer asks"}}),
    "prompt.hidden": ({"method": "p_tuning"}, {"method": "p_tuning", "prompt": {"hidden": 8}}),
    "prompt.projection": ({"method": "prefix"}, {"method": "prefix", "prompt": {"projection": True}}),
    "oft.block_size": ({"method": "oft"}, {"method": "oft", "oft": {"block_size": 16}}),
    "oft.rank": ({"method": "osf"}, {"method": "osf", "oft": {"rank": 4}}),
    "bottleneck.size": ({"method": "bottleneck"}, {"method": "bottleneck", "bottleneck": {"size": 3}}),
    "bottleneck.placement": ({"method": "bottleneck"}, {"method": "bottleneck", "bottleneck": {"placement": "houlsby"}}),
    "bottleneck.activation": ({"method": "bottleneck"}, {"method": "bottleneck", "bottleneck": {"activation": "relu"}}),
    "kl.beta": ({}, {"kl": {"beta": 50}}),
    "anchor.kind": ({}, {"anchor": {"kind": "l2_sp"}}),
    "anchor.strength": ({"anchor": {"kind": "l2_sp"}}, {"anchor": {"kind": "l2_sp", "strength": 100}}),
    "anchor.fisher_rows": ({"anchor": {"kind": "ewc", "strength": 10}}, {"anchor": {"kind": "ewc", "strength": 10, "fisher_rows": 1}}),
    "early_stopping.min_delta_nats": ({"eval_steps": 1}, {"eval_steps": 1, "early_stopping": QUICK["early_stopping"] | {"min_delta_nats": 10}}),
}  # fmt: skip
# Flipped by a test of its own: which one.
ELSEWHERE = {
    "seed": "test_work.test_same_seed_same_bytes_other_seed_other_bytes",
    "method": "test_methods.test_method_on_family",
    "device": "test_methods.test_method_on_family",
    "micro_tokens": "test_work.test_the_split_into_micro_batches_changes_nothing",
    "packing": "test_batches.test_packed_loss_is_unpacked_loss",
    "gradient_checkpointing": "test_knobs.test_gradient_checkpointing_gives_the_same_numbers",
    "optimizer": "test_speed.test_moments_in_8_bits_learn_as_well_and_go_on_after_a_kill",
    "fused_kernels": "test_speed.test_small_moments_and_liger_reach_the_plan_and_the_trainer",
    "sharding": "test_distributed.test_two_processes_are_one",
    "processes": "test_trainjob.test_the_step_itself_starts_the_processes_of_one_machine",
    "eval_steps": "test_knobs.test_evaluations_and_their_rows",
    "max_eval_rows": "test_knobs.test_evaluations_and_their_rows",
    "save_steps": "test_resume.test_only_as_many_checkpoints_as_asked_are_kept",
    "keep_checkpoints": "test_resume.test_only_as_many_checkpoints_as_asked_are_kept",
    "resume": "test_resume.test_resume_never_starts_anew",
    "checkpoint_uri": "../publish/test_checkpoints.test_publishing_deletes_the_checkpoints_of_its_own_run",
    "divergence_nats": "test_work.test_a_rate_that_blows_up_is_an_error_with_advice",
    "objective": "test_preference.test_the_better_answers_win",
    "preference.beta": "test_preference.test_flipping_a_knob_changes_the_result",
    "preference.desirable_weight": "test_preference.test_flipping_a_knob_changes_the_result",
    "preference.undesirable_weight": "test_preference.test_flipping_a_knob_changes_the_result",
    "preference.replay_weight": "test_preference.test_flipping_a_knob_changes_the_result",
    "weighting.kind": "test_weighting.test_flipping_a_knob_changes_the_result",
    "weighting.temperature": "test_weighting.test_flipping_a_knob_changes_the_result",
    "weighting.max_token_nats": "test_weighting.test_flipping_a_knob_changes_the_result",
    "task_weights": "test_weighting.test_flipping_a_knob_changes_the_result",
    "early_stopping.patience": "test_work.test_training_stops_when_the_target_no_longer_gains",
    "early_stopping.max_retention_rise_nats": "test_work.test_training_stops_when_the_general_loss_rises",
    "early_stopping.keep_best": "test_work.test_the_best_weights_are_kept",
}


def knobs() -> dict[str, Any]:
    """Every setting of a training by its dotted name → its default."""
    found: dict[str, Any] = {}
    for name, value in TrainConfig():
        found |= {f"{name}.{key}": inner for key, inner in value} if isinstance(value, StepConfig) else {name: value}
    return found


def test_every_knob_has_its_test() -> None:
    assert set(knobs()) == set(FLIPS) | set(ELSEWHERE)
    assert len(knobs()) > 50
    assert not set(FLIPS) & set(ELSEWHERE)


@pytest.mark.parametrize("knob", ELSEWHERE)
def test_the_test_that_is_named_is_there_and_about_the_knob(knob: str) -> None:
    module, _, function = ELSEWHERE[knob].rpartition(".")
    source = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    assert f"def {function}(" in source
    assert knob.rpartition(".")[2] in source


@pytest.mark.parametrize("method", METHOD_RATES)
def test_a_method_s_own_settings_act_or_are_refused(method: str) -> None:
    """What a flip of it changes with one method, no other takes in silence."""
    for knob, (_, flipped) in FLIPS.items():
        section, _, key = knob.partition(".")
        reads = method in READERS.get(knob, READERS.get(section, METHOD_RATES))
        if not reads:
            with pytest.raises(ConfigError, match=f"does not read these settings: {knob}"):
                rules.check(TrainConfig(method=method, **{section: {key: flipped[section][key]}}), "cpu")


@pytest.mark.parametrize("knob", FLIPS)
def test_flipping_it_changes_the_result(knob: str, trained: Trained) -> None:
    one, two = FLIPS[knob]
    assert trained("a", **{**STEPS, **one}).adapter_digest != trained("b", **{**STEPS, **two}).adapter_digest


def test_a_4_bit_base_takes_starts_that_read_no_weights(trained: Trained) -> None:
    ends = {trained(init, method="qlora", lora=LORA | {"init": init}, **STEPS).adapter_digest for init in ("default", "gaussian", "eva")}  # fmt: skip
    assert len(ends) == 3


def test_evaluations_and_their_rows(trained: Trained, tmp_path: Path) -> None:
    def curve(name: str, **changes: Any) -> list[list[float]]:
        trained(name, **changes)
        return list(json.loads((tmp_path / name / "adapter" / "losses.json").read_text())["target_validation"])

    assert [step for step, _ in curve("a", eval_steps=2)] == [0, 2, 4, 6]
    assert [step for step, _ in curve("b", eval_steps="auto")] == [0, 2, 4, 6]
    assert curve("c", eval_steps=6)[0] != curve("d", eval_steps=6, max_eval_rows=2)[0]


def test_gradient_checkpointing_gives_the_same_numbers(trained: Trained) -> None:
    one, two = trained("a"), trained("b", gradient_checkpointing=True)
    assert two.train_loss_nats == pytest.approx(one.train_loss_nats, abs=1e-6)


def test_zero_and_auto_are_the_methods_own_rate(trained: Trained) -> None:
    assert (
        trained("a", learning_rate=0, **STEPS).adapter_digest
        == trained("b", learning_rate="auto", **STEPS).adapter_digest
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "full", "lora": {}, "kl": {"beta": 1}}, "no adapter to switch off"),
        ({"method": "full", "bottleneck": {"size": 3}, "lora": {}}, "does not read these settings: bottleneck"),
        ({"lora": {"init": "pissa"}, "kl": {"beta": 1}}, "it is not the base"),
        ({"method": "qlora", "lora": {"init": "pissa"}}, "unquantised weights"),
        ({"method": "qlora", "lora": {"init": "orthogonal"}}, "unquantised weights"),
        ({"method": "qlora", "anchor": {"kind": "ewc"}}, "4-bit weights have none"),
        ({"lora": {"use_dora": True}, "anchor": {"kind": "l2_sp"}}, "not a plain product"),
        ({"method": "prompt", "lora": {}, "anchor": {"kind": "l2_sp"}}, "no weights near the base"),
        ({"method": "prompt", "lora": {}, "packing": "packed"}, "cannot be packed"),
        ({"method": "prefix", "lora": {}, "gradient_checkpointing": True}, "a prefix is a cache"),
        ({"lora": {"dropout": 1.5}}, "must lie in"),
        ({"lora": {"train_head": True}, "anchor": {"kind": "l2_sp"}}, "trained whole has none"),
        ({"method": "ia3", "lora": {"r": 4}}, "does not read these settings: lora.r"),
        ({"method": "prefix", "lora": {}, "prompt": {"hidden": 8}}, "without a projection"),
        ({"anchor": {"strength": 3.0}}, "without a kind nothing pulls"),
        ({"anchor": {"kind": "l2_sp", "fisher_rows": 7}}, "only ewc measures"),
        ({"early_stopping": {"patience": 0, "keep_best": False, "min_delta_nats": 0.1}}, "nothing asks which"),
        ({"lora": {"train_head": True, "init": "pissa"}}, "without a head beside it"),
        ({"lora": {"init": "pissa", "dropout": 0.05}}, "would drop parts of the base"),
        (
            {"method": "freeze", "lora": {}, "freeze": {"first_layers": 2, "patterns": ["norm", "head"]}},
            "nothing is left",
        ),
        ({"method": "freeze", "lora": {}, "freeze": {"patterns": ["no_such_weight"]}}, "pattern matches nothing"),
        ({"method": "freeze", "lora": {}, "freeze": {"first_layers": 99}}, "has not so many blocks"),
        ({"lora": {"rank_pattern": {"no_proj": 2}}}, "pattern matches nothing"),
        ({"lora": {"alpha_pattern": {"q_proj": 2}}}, "pattern matches nothing"),  # mlp-only: q_proj gets no adapter
        ({"lora": {"r": 4000}}, "larger than the matrices"),
        (
            {"method": "prompt", "lora": {}, "prompt": {"tokens": 2, "text": "the customer asks again and again"}},
            "words are longer",
        ),
        ({"lora": {"init": "pissa", "r": 4000}}, "larger than the matrices"),
        ({"method": "osf", "lora": {}, "oft": {"rank": 4000}}, "larger than the matrices"),
        ({"method": "oft", "lora": {}, "oft": {"block_size": 7}}, "do not fill a layer"),
    ],
)
def test_what_cannot_act_is_refused(changes: dict[str, Any], reason: str, trained: Trained) -> None:
    with pytest.raises(ConfigError, match=reason):
        trained(**changes)


@pytest.mark.parametrize("init", ["default", "gaussian", "orthogonal", "pissa", "olora", "corda", "eva"])
def test_every_start_is_the_base_and_its_adapter_sits_on_the_untouched_base(init: str, trained: Trained, tmp_path: Path, tiny_llama: Path, mixture: Path) -> None:  # fmt: skip
    """The evaluation at step 0 is the base's; the saved adapter on the original base gives the last evaluation's loss."""
    from peft import PeftModel

    result = trained(lora=LORA | {"init": init})
    plain = trained("plain", lora=LORA)
    assert result.base_target_validation_nats == pytest.approx(plain.base_target_validation_nats, abs=1e-5)
    adapted = PeftModel.from_pretrained(models.load_model(tiny_llama, dtype="fp32"), str(tmp_path / "run" / "adapter"))
    from retain.train import batches
    from retain.train.loss import Head
    from retain.train.rows import read_mixture, total_weight

    rows = read_mixture(mixture, longest=512).target_validation
    head, shape = Head(adapted.get_base_model()), batches.Shape(1000, padded=True)
    with torch.no_grad():
        loss = sum(float(head.loss(adapted, micro)) for micro in batches.as_batches(rows, shape)) / total_weight(rows)
    assert loss == pytest.approx(result.target_validation_nats, abs=1e-4)


def test_bottlenecks_start_at_the_base_and_are_loaded_as_they_were_saved(trained: Trained, tmp_path: Path, tiny_llama: Path) -> None:  # fmt: skip
    ids, base = torch.arange(10, 30)[None], models.load_model(tiny_llama, dtype="fp32")
    before = base(input_ids=ids).logits
    from retain.train.method_config import BottleneckConfig

    assert torch.equal(
        bottleneck.insert(models.load_model(tiny_llama, dtype="fp32"), BottleneckConfig())(input_ids=ids).logits, before
    )
    trained(method="bottleneck")
    again = bottleneck.load(models.load_model(tiny_llama, dtype="fp32"), tmp_path / "run" / "adapter")
    assert not torch.equal(again(input_ids=ids).logits, before)
    with again.disable_adapter():
        assert torch.equal(again(input_ids=ids).logits, before)
    assert json.loads((tmp_path / "run" / "adapter" / "retain.json").read_text())["mergeable"] is False


def test_frozen_weights_are_not_in_the_artifact(trained: Trained, tmp_path: Path) -> None:
    trained(method="freeze", freeze={"first_layers": 1})
    names = set(load_file(tmp_path / "run" / "adapter" / "model.safetensors"))
    assert names
    assert not [name for name in names if "layers.0." in name or "embed_tokens" in name]


def test_the_divergence_from_the_base_holds_the_model_back(trained: Trained) -> None:
    seen: dict[str, list[float]] = {}

    def run(beta: float) -> float:
        return trained(str(beta), learning_rate=1e-2, batch_rows=8, max_steps=24, kl={"beta": beta}, log=lambda m, s: seen.setdefault(str(beta), []).append(m.get("kl_to_base_nats", 0.0))).retention_nats  # fmt: skip

    free, held = (run(beta) for beta in (1e-9, 100.0))
    assert free != held
    assert max(seen["100.0"][-8:]) < 0.5 * max(seen["1e-09"][-8:])


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("kind", ["l2_sp", "ewc"])
def test_an_anchor_keeps_the_weights_nearer_to_the_base(kind: str, method: str, trained: Trained) -> None:
    """The penalty at strength 1 after a strong pull is far below that after a weak one."""
    ends = []
    for strength in (1e-6, 1e3):
        log: list[float] = []
        trained(f"{strength}", method=method, learning_rate=1e-3 if method == "full" else 1e-2, max_steps=12, anchor={"kind": kind, "strength": strength}, log=lambda m, s, log=log: log.append(m["anchor_penalty_nats"]) if "anchor_penalty_nats" in m else None)  # fmt: skip
        ends.append(log[-1] / strength)
    assert ends[1] < 0.5 * ends[0]


def test_ewc_without_replay_rows_is_refused(trained: Trained, tmp_path: Path) -> None:
    from retain import artifacts

    from .conftest import token_rows

    artifacts.write_rows(tmp_path / "mix", "retain.mixture/1", (row | {"part": "target"} for row in token_rows()))
    with pytest.raises(ConfigError, match="measures the base's knowledge on replay rows"):
        trained(rows=tmp_path / "mix", anchor={"kind": "ewc"})


def test_pairs_for_a_causal_model_are_refused(trained: Trained, tmp_path: Path) -> None:
    from retain import artifacts

    from .conftest import token_rows

    artifacts.write_rows(
        tmp_path / "mix", "retain.mixture/1", (row | {"labels": row["labels"][:4]} for row in token_rows())
    )
    with pytest.raises(DataRefused, match="encoder-decoder"):
        trained(rows=tmp_path / "mix")
