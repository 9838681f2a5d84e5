"""Judged answers: the losses are trl's, the chosen answers win, the rest of the engine (resume, packing, replay) stays what it is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retain import artifacts, models
from retain.errors import ConfigError, DataRefused
from retain.train import batches, objectives
from retain.train.batches import Shape
from retain.train.config import TrainConfig, rate
from retain.train.loss import CHUNK_LOGITS, Head
from retain.train.objectives import Judged
from retain.train.rows import Row, crossed, judged_weight, read_mixture
from retain.train.sequences import answer_log_probs, token_losses

from .conftest import Trained
from .families import build
from .judged import judged_rows

KINDS = {"dpo": "preference", "orpo": "preference", "kto": "kto"}
Rows = Callable[..., Path]


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The mixture of an objective."""

    def make(objective: str, **how: Any) -> Path:
        folder = tmp_path_factory.mktemp(objective) / "mixture"
        artifacts.write_rows(folder, "retain.mixture/1", judged_rows(KINDS[objective], **how))
        return folder

    return make


# -- the losses ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def policy(tiny_llama: Path) -> Any:
    """A LoRA that is no longer the base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    model = get_peft_model(models.load_model(tiny_llama, dtype="fp32"), LoraConfig(r=4, target_modules=["up_proj", "down_proj"], task_type="CAUSAL_LM"))  # fmt: skip
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model.eval()


def trainer(kind: str, model: Any, tiny_llama: Path, folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Any:
    """trl's own trainer around the same model."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    shared = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": [], "disable_tqdm": True}
    args = getattr(trl, f"{kind}Config")(output_dir=str(folder), **shared, **settings)
    made = getattr(trl, f"{kind}Trainer")(model=model, args=args, train_dataset=Dataset.from_list(rows), processing_class=models.load_tokenizer(tiny_llama))  # fmt: skip
    made.model.eval()
    return made


def loss_and_slopes(model: Any, loss: torch.Tensor) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for n, p in model.named_parameters() if "default" in n and p.grad is not None]  # fmt: skip


def parts(row: Row) -> tuple[list[int], list[int]]:
    """(prompt, answer) of one side."""
    border = int(np.argmax(row.labels != artifacts.IGNORED_LABEL))
    return row.input_ids[:border].tolist(), row.input_ids[border:].tolist()


def log_probs(model: Any, micro: dict[str, Any], sides: int) -> tuple[torch.Tensor, torch.Tensor]:
    head = Head(model.get_base_model())
    own = answer_log_probs(head, model, micro, sides)
    with torch.no_grad(), model.disable_adapter():
        reference = answer_log_probs(head, model, micro, sides)
    head.restore()
    return own, reference


@pytest.mark.filterwarnings("ignore")
def test_dpo_is_trls_own(policy: Any, judged: Rows, tiny_llama: Path, tmp_path: Path) -> None:
    rows = [row for row in read_mixture(judged("dpo"), longest=512).train if row.judged]
    own, reference = log_probs(policy, batches.collate(rows, padded=True, pad=0), 2 * len(rows))
    ours = loss_and_slopes(policy, objectives.dpo(own, reference, 0.3).losses.mean())
    theirs = trainer(
        "DPO", policy, tiny_llama, tmp_path, [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2, beta=0.3
    )
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    examples = [{"prompt_ids": parts(row)[0], "chosen_ids": parts(row)[1], "rejected_ids": parts(row.rejected)[1]} for row in rows]  # fmt: skip
    # trl keeps a copy of the adapter as the reference; the base itself is the adapter switched off
    theirs.model.delete_adapter("ref")
    same(ours, loss_and_slopes(policy, theirs.compute_loss(theirs.model, DataCollatorForPreference(0)(examples))))


@pytest.mark.filterwarnings("ignore")
def test_kto_is_trls_own(policy: Any, judged: Rows, tiny_llama: Path, tmp_path: Path) -> None:
    rows = [row for row in read_mixture(judged("kto"), longest=512).train if row.judged]
    mixed = crossed(rows)
    own, reference = log_probs(policy, batches.collate(mixed, padded=True, pad=0), len(rows))
    point = max(0.0, float((own - reference).detach().mean()))
    micro = batches.collate(rows, padded=True, pad=0)
    own, reference = log_probs(policy, micro, len(rows))
    ours = loss_and_slopes(
        policy, objectives.kto(own, reference, micro["desirable"], point, 0.3, (1.5, 0.5)).losses.mean()
    )
    asked = [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "c", "completion": "d", "label": False}]
    theirs = trainer("KTO", policy, tiny_llama, tmp_path, asked, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5, per_device_train_batch_size=2)  # fmt: skip
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    examples = [
        {"prompt_ids": parts(row)[0], "completion_ids": parts(row)[1], "KL_completion_ids": parts(other)[1], "label": row.desirable}
        for row, other in zip(rows, mixed, strict=True)
    ]  # fmt: skip
    theirs.model.delete_adapter("ref")
    batch = DataCollatorForUnpairedPreference(0)(examples)
    assert point > 0
    same(ours, loss_and_slopes(policy, theirs.compute_loss(theirs.model, batch)))


def same(ours: tuple[float, list[torch.Tensor]], theirs: tuple[float, list[torch.Tensor]]) -> None:
    assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
    assert len(ours[1]) == len(theirs[1]) == 8
    for mine, other in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_the_odds_ratio_is_trls_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    orpo = pytest.importorskip("trl.experimental.orpo")
    from types import SimpleNamespace

    mean = torch.tensor([-0.5, -2.0, -1.2, -3.0])
    lengths = torch.tensor([3, 5, 2, 7])
    holder = SimpleNamespace(beta=0.4, accelerator=SimpleNamespace(device="cpu"))
    ratio = orpo.ORPOTrainer.odds_ratio_loss(holder, *mean.chunk(2))[0]
    ours = objectives.orpo(mean * lengths, lengths, 0.4)
    torch.testing.assert_close(ours.losses, -mean[:2] - ratio)


def test_token_losses_are_cross_entropy_with_its_slopes(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_LOGITS, "cpu", 1000)  # three tokens at a time
    model = models.load_model(tiny_llama, dtype="fp32").requires_grad_(True)
    head, targets = Head(model), torch.arange(10) * 7
    hidden, weights = torch.randn(10, 32, requires_grad=True), torch.rand(10)
    plain = torch.nn.functional.cross_entropy(hidden @ head.module.weight.T, targets, reduction="none")
    torch.testing.assert_close(token_losses(head, hidden, targets), plain)
    inputs = (hidden, head.module.weight)
    own = torch.autograd.grad((token_losses(head, hidden, targets) * weights).sum(), inputs)
    for mine, theirs in zip(own, torch.autograd.grad((plain * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(mine, theirs)


# -- the training --------------------------------------------------------------------------------------------------------

LEARN: dict[str, Any] = {"max_steps": 24, "eval_steps": 12, "learning_rate": 2e-2, "batch_rows": 6}


@pytest.mark.parametrize("objective", KINDS)
def test_the_better_answers_win(objective: str, trained: Trained, judged: Rows) -> None:
    seen: list[dict[str, float]] = []
    result = trained(rows=judged(objective), objective=objective, log=lambda m, s: seen.append(m), **LEARN)
    assert result.target_validation_nats < result.base_target_validation_nats
    last = next(m for m in reversed(seen) if "validation_reward_chosen" in m)
    assert last["validation_reward_chosen"] > last["validation_reward_rejected"]
    if objective != "kto":
        assert last["validation_reward_accuracy"] == 1.0
    assert any("reward_margin" in m or "reference_drift_nats" in m for m in seen if "train_loss_nats" in m)


@pytest.mark.parametrize(("objective", "start"), [("dpo", np.log(2)), ("kto", 0.5)])
def test_at_the_start_policy_and_reference_are_one(
    objective: str, start: float, trained: Trained, judged: Rows
) -> None:
    result = trained(rows=judged(objective), objective=objective, max_steps=1)
    assert result.base_target_validation_nats == pytest.approx(start, abs=1e-6)


@pytest.mark.parametrize("objective", KINDS)
def test_micro_batches_and_padding_change_nothing(objective: str, trained: Trained, judged: Rows) -> None:
    rows = judged(objective)
    runs = {"whole": {}, "split": {"micro_tokens": 40}, "padded": {"packing": "padded"}}
    ends = [trained(name, rows=rows, objective=objective, **LEARN, **how) for name, how in runs.items()]
    for other in ends[1:]:
        assert other.target_validation_nats == pytest.approx(ends[0].target_validation_nats, abs=2e-4)


@pytest.mark.parametrize("objective", KINDS)
def test_a_stopped_run_ends_with_the_same_bytes(objective: str, trained: Trained, judged: Rows) -> None:
    class Power(Exception):
        pass

    def fails(metrics: dict[str, float], step: int) -> None:
        if step == 5:
            raise Power

    rows, how = judged(objective), {"objective": objective, "save_steps": 2, "max_steps": 8, "lora": {"r": 4, "dropout": 0.1}}  # fmt: skip
    whole = trained("whole", rows=rows, **how)
    with pytest.raises(Power):
        trained("cut", rows=rows, log=fails, **how)
    again = trained("cut", rows=rows, **how)
    assert again.resumed_at == 4
    assert again.adapter_digest == whole.adapter_digest


def test_encoder_decoders_learn_from_pairs(trained: Trained, judged: Rows, tmp_path: Path) -> None:
    model = build("t5", tmp_path / "t5")
    for objective in KINDS:
        result = trained(objective, model=model, rows=judged(objective, pairs=True), objective=objective, **LEARN)
        assert result.target_validation_nats < result.base_target_validation_nats


@pytest.mark.parametrize("method", ["qlora", "bottleneck", "prefix", "prompt", "p_tuning", "ia3", "oft"])
def test_every_adapter_method_knows_its_reference(method: str, trained: Trained, judged: Rows) -> None:
    more = {"oft": {"block_size": 16}} if method == "oft" else {}
    result = trained(
        rows=judged("dpo"), objective="dpo", method=method, **{**LEARN, "max_steps": 4, "eval_steps": 4}, **more
    )
    attached = method in ("prefix", "prompt", "p_tuning")  # these start away from the base
    assert (result.base_target_validation_nats == pytest.approx(np.log(2), abs=1e-4)) is not attached
    assert result.target_validation_nats != result.base_target_validation_nats


@pytest.mark.parametrize(
    ("objective", "knob", "value"),
    [
        ("dpo", "beta", 1.0),
        ("orpo", "beta", 1.0),
        ("kto", "beta", 1.0),
        ("kto", "desirable_weight", 2.0),
        ("kto", "undesirable_weight", 2.0),
        ("dpo", "replay_weight", 5.0),
    ],
)
def test_flipping_a_knob_changes_the_result(
    objective: str, knob: str, value: float, trained: Trained, judged: Rows
) -> None:
    rows, how = judged(objective), {"objective": objective, "max_steps": 3, "eval_steps": 3}
    assert trained("a", rows=rows, **how).adapter_digest != trained("b", rows=rows, preference={knob: value}, **how).adapter_digest  # fmt: skip


def test_replay_rows_hold_the_general_loss(trained: Trained, judged: Rows) -> None:
    rows, ends = judged("dpo"), []
    for weight in (0.0, 5.0):
        seen: list[float] = []
        trained(str(weight), rows=rows, objective="dpo", preference={"replay_weight": weight}, max_grad_norm=100, log=lambda m, s, seen=seen: seen.append(m["plain_loss_nats"]) if "plain_loss_nats" in m else None, **LEARN)  # fmt: skip
        ends.append(seen[-1])
    assert ends[1] < ends[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objective": "dpo", "method": "full"}, "no adapter to switch off"),
        ({"objective": "kto", "method": "osf"}, "no adapter to switch off"),
        ({"objective": "dpo", "lora": {"init": "pissa"}}, "it is not the reference"),
        ({"objective": "dpo", "preference": {"desirable_weight": 2}}, "knows no desirable"),
        ({"objective": "kto", "batch_rows": 1}, "another row's answer"),
        ({"preference": {"beta": 2}}, "does not read these settings: preference"),
    ],
)
def test_what_cannot_act_is_refused(changes: dict[str, Any], reason: str, trained: Trained) -> None:
    with pytest.raises(ConfigError, match=reason):
        trained(**changes)


@pytest.mark.parametrize(
    ("objective", "rows", "fix"),
    [("sft", "dpo", "train.objective dpo or orpo"), ("sft", "kto", "train.objective kto"), ("kto", "dpo", "dpo or orpo"), ("dpo", "kto", "train.objective kto")],
)  # fmt: skip
def test_rows_of_another_kind_are_refused(objective: str, rows: str, fix: str, trained: Trained, judged: Rows) -> None:
    with pytest.raises(DataRefused, match=fix):
        trained(rows=judged(rows), objective=objective)


def test_judged_replay_rows_are_refused(trained: Trained, tmp_path: Path) -> None:
    rows = (row | {"part": "replay"} if i == 0 else row for i, row in enumerate(judged_rows("preference")))
    artifacts.write_rows(tmp_path / "mix", "retain.mixture/1", rows)
    with pytest.raises(DataRefused, match="not to be judged"):
        trained(rows=tmp_path / "mix", objective="dpo")


def test_safety_rows_are_judged_or_plain(trained: Trained, tmp_path: Path) -> None:
    rows = [row | {"part": "safety"} if i in (0, 3) else row for i, row in enumerate(judged_rows("preference"))]
    artifacts.write_rows(tmp_path / "mix", "retain.mixture/1", rows)
    assert trained(rows=tmp_path / "mix", objective="dpo", max_steps=1).steps == 1
    artifacts.write_rows(
        tmp_path / "plain", "retain.mixture/1", [rows[0], *(row for row in rows if "rejected_labels" not in row)]
    )
    with pytest.raises(DataRefused, match="learns from plain rows"):
        trained(rows=tmp_path / "plain")


def test_full_training_knows_orpo(trained: Trained, judged: Rows, tmp_path: Path) -> None:
    result = trained(rows=judged("orpo"), objective="orpo", method="full", **{**LEARN, "learning_rate": 1e-3})
    assert result.target_validation_nats < result.base_target_validation_nats
    assert json.loads((tmp_path / "run" / "adapter" / "retain.json").read_text())["config"]["objective"] == "orpo"


def test_a_preference_rate_is_a_tenth() -> None:
    assert rate(TrainConfig(objective="dpo")) == pytest.approx(rate(TrainConfig()) / 10)


def test_weights_of_rows_and_shares_of_steps(judged: Rows) -> None:
    rows = read_mixture(judged("kto"), longest=512).train
    order = [np.arange(len(rows))]
    whole = batches.Steps(rows, order, Shape(64, False), crossed=True)[0]
    halves = [batches.Steps(rows, order, Shape(64, False), rank=r, world=2, crossed=True)[0] for r in (0, 1)]
    assert whole["judged_weight"] == halves[0]["judged_weight"] == judged_weight(rows)
    assert sum(len(m["row_weights"]) for half in halves for m in half["crossed"]) == len([r for r in rows if r.judged])
    assert max(len(row.input_ids) for row in crossed(rows)) <= max(len(row.input_ids) for row in rows)


def test_a_certain_answer_has_finite_odds() -> None:
    judged: Judged = objectives.orpo(torch.tensor([-1e-12, -5.0]), torch.tensor([1, 1]), 0.1)
    assert torch.isfinite(judged.losses).all()
