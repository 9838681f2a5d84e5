"""Weights set in place are, bit for bit, those that a merge writes: at every strength, back and forth, in any order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import models
from retain.errors import ConfigError
from retain.merge.config import MergeConfig
from retain.merge.work import merge
from retain.score.config import ScoreConfig
from retain.score.dial import Dial, Weights

QUICK: dict[str, Any] = {"probe_rows": 1, "probe_tokens": 8}
TURNS: list[dict[str, Any]] = [{"strength": 0.5}, {"strength": 1.0}, {"strength": 0.7, "first_layer": 0.0}, {"strength": 0.5}]  # fmt: skip


def _changed_weights(folder: Path, base: Path) -> Path:
    import torch

    model = models.load_model(base, dtype="fp32")
    torch.manual_seed(5)
    model.save_pretrained(str(folder), state_dict={n: t + 0.02 * torch.randn_like(t) for n, t in model.state_dict().items()})  # fmt: skip
    return folder


@pytest.mark.parametrize("kind", ["lora", "dora", "head", "weights"])
def test_the_dial_is_the_merge(kind: str, tiny_llama: Path, noisy_adapter: Callable[..., Path], tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dora": {"use_dora": True}, "head": {"modules_to_save": ["lm_head"], "target_modules": ["q_proj"]}}.get(kind, {})  # fmt: skip
    adapter = _changed_weights(tmp_path / "a", tiny_llama) if kind == "weights" else noisy_adapter(tmp_path / "a", tiny_llama, **settings)  # fmt: skip
    merge(MergeConfig(**QUICK), tiny_llama, [(adapter, 1.0)], tmp_path / "gated")
    dial = Dial(ScoreConfig(dtype="fp32"), tiny_llama, tmp_path / "gated")
    for i, turn in enumerate(TURNS):
        merging = MergeConfig(**QUICK, **turn)
        ours = dial.at(merging, adapter).model.state_dict()
        merge(merging, tiny_llama, [(adapter, 1.0)], tmp_path / f"merged{i}")
        wanted = models.load_model(tmp_path / f"merged{i}", dtype="fp32").state_dict()
        assert set(ours) == set(wanted)
        assert not [name for name in wanted if not ours[name].equal(wanted[name])]


def test_a_tensor_without_its_name_in_the_model_is_refused(tiny_llama: Path) -> None:
    import torch

    weights = Weights(models.load_model(tiny_llama, dtype="fp32"))
    with pytest.raises(ConfigError, match="cannot be set in place"):
        weights.write("model.layers.0.experts.3.weight", 0, torch.zeros(1, 2))
    with pytest.raises(ConfigError, match="cannot be set in place"):  # words that the loaded model has no rows for
        weights.write("lm_head.weight", 10**6, torch.zeros(1, 2))
