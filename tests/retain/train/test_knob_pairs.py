"""Of knobs that cannot act together, on these rows, or out of their range, one is refused with the reason."""

from pathlib import Path
from typing import Any

import pytest

from retain import artifacts
from retain.config import parse
from retain.errors import ConfigError
from retain.train import rules
from retain.train.config import TrainConfig

from .conftest import Trained, token_rows

# Pairs of knobs of which one makes the other do nothing (or something else than it says): neither is passed over in silence.
PAIRS: list[tuple[dict[str, Any], str]] = [
    ({"max_steps": 5, "num_train_epochs": 3}, "the epochs would be ignored"),
    ({"method": "probe", "gradient_checkpointing": True}, "takes no gradient"),
    ({"method": "probe", "kl": {"beta": 1}}, "nothing to hold back"),
    ({"lora": {"init": "orthogonal", "r": 3}}, "in pairs"),
    ({"lora": {"init": "orthogonal", "r": 2, "layer_plan": "thirds"}}, "halves the rank"),
    ({"lora": {"rank_pattern": {"up_proj": 0}}}, "at least 1"),
    ({"lora": {"alpha_pattern": {"up_proj": 0}}}, "above 0"),
    ({"lora": {"rank_pattern": {"up(": 2}}}, "no regular expression"),
    ({"method": "freeze", "freeze": {"patterns": ["*"]}}, "no regular expression"),
    ({"device": "cuda:1", "processes": 4}, "each process takes one of its own"),
    ({"sharding": "fsdp", "processes": 1}, "one process only"),
    ({"anchor": {"strength": 3.0}}, "without a kind nothing pulls"),
    ({"anchor": {"kind": "l2_sp", "fisher_rows": 7}}, "only ewc measures"),
    ({"weighting": {"temperature": 2.0}}, "weigh nothing"),
    ({"weighting": {"kind": "flow", "max_token_nats": 2.0}}, "only stm"),
    ({"weighting": {"kind": "stm", "temperature": 2.0}}, "only flow"),
    ({"preference": {"beta": 0.2}}, "objective sft does not read"),
    ({"objective": "dpo", "preference": {"desirable_weight": 2}}, "no desirable and undesirable"),
    ({"objective": "dpo", "weighting": {"kind": "flow"}}, "learnt as they stand"),
    ({"objective": "dpo", "method": "full"}, "leaves no adapter to switch off"),
    ({"objective": "kto", "batch_rows": 1}, "at least 2 rows"),
    ({"method": "prefix", "prompt": {"hidden": 8}}, "without a projection"),
]


@pytest.mark.parametrize(("changes", "reason"), PAIRS)
def test_of_two_knobs_that_cannot_act_together_one_is_refused_before_a_machine_is_asked_for(changes: dict[str, Any], reason: str) -> None:  # fmt: skip
    with pytest.raises(ConfigError, match=reason):
        rules.check_recipe(TrainConfig(**changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kl": {"beta": 1}}, "measured on replay rows"),
        ({"early_stopping": {"max_retention_rise_nats": 0.3}}, "no general rows"),
        ({"early_stopping": {"patience": 3, "max_retention_rise_nats": 0}}, "no target rows"),
        ({"early_stopping": {"patience": 0, "min_delta_nats": 0.1, "max_retention_rise_nats": 0}}, "no target rows"),
        ({"max_eval_rows": 5}, "no rows are set aside"),
    ],
)
def test_a_knob_that_acts_on_rows_is_refused_where_there_are_none(changes: dict[str, Any], reason: str, trained: Trained, tmp_path: Path) -> None:  # fmt: skip
    rows = (row | {"part": "target", "split": "train"} for row in token_rows())
    artifacts.write_rows(tmp_path / "mix", "retain.mixture/1", rows)
    with pytest.raises(ConfigError, match=reason):
        trained(rows=tmp_path / "mix", **changes)


def test_every_setting_has_a_range_or_a_word() -> None:
    """No number may be infinite, no count negative; the fault names the setting as the user wrote it."""
    for values, said in (
        ({"eval_steps": 0}, r"train\.eval_steps: .* 1, or 'auto' \(got 0\)"), ({"save_steps": -3}, r"train\.save_steps: "),
        ({"learning_rate": float("nan")}, "finite"), ({"lora": {"alpha": float("inf")}}, "finite"), ({"device": "gpu"}, "cuda"), ({"freeze": {"first_layers": -1}}, "0, or 'auto'"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            parse(TrainConfig, values, where="train")


def test_a_rank_of_zero_and_a_misspelled_knob_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.lora\.r"):
        parse(TrainConfig, {"lora": {"r": 0}}, where="train")
    with pytest.raises(ConfigError, match="did you mean 'target_modules'"):
        parse(TrainConfig, {"lora": {"target_module": "x"}}, where="train")
