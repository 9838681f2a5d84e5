"""DeepSpeed's ZeRO-2 as an option: what it is told, and why it is refused. Its losses are test_distributed's, where it is installed."""

import importlib.util
import json

import pytest

from retain.errors import ConfigError
from retain.train import rules, zero
from retain.train.config import TrainConfig


def test_deepspeed_is_told_one_batch_a_step_and_the_recipe_s_clipping() -> None:
    told = zero.settings(0.7, bf16=True)
    assert json.loads(json.dumps(told)) == told
    assert told["zero_optimization"]["stage"] == 2
    assert (told["bf16"]["enabled"], zero.settings(0.7, bf16=False)["bf16"]["enabled"]) == (True, False)
    assert told["gradient_clipping"] == 0.7
    assert (told["train_micro_batch_size_per_gpu"], told["gradient_accumulation_steps"]) == (1, 1)
    assert told["communication_data_type"] == told["data_types"]["grad_accum_dtype"] == "fp32"  # sums are not rounded


def test_without_deepspeed_it_is_refused_with_what_to_do() -> None:
    if importlib.util.find_spec("deepspeed"):
        pytest.skip("deepspeed is installed here")
    with pytest.raises(ConfigError, match="deepspeed, which is not installed") as refused:
        rules.check(TrainConfig(sharding="zero2"), "cpu")
    assert "pip install deepspeed, or use sharding: fsdp" in refused.value.fix


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optimizer": "adamw_8bit"}, "no shared state"),
        ({"anchor": {"kind": "l2_sp"}}, "before the anchor can pull"),
        ({"objective": "dpo"}, "would not share"),
        ({"method": "prefix"}, "cannot be split"),
    ],
)
def test_what_it_cannot_do_is_refused(changes: dict[str, object], reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())  # as where it is installed
    with pytest.raises(ConfigError, match=reason):
        rules.check(TrainConfig(sharding="zero2", **changes), "cpu")  # type: ignore[arg-type]
