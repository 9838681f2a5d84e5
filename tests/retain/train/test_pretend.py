"""Every method, protection and objective on a pretended GPU: nothing is made on the CPU that meets what lies on the device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retain import artifacts, models
from retain.train import device, speed
from retain.train.config import METHOD_RATES, TrainConfig
from retain.train.work import TrainResult, train

from . import pretend
from .conftest import QUICK, token_rows
from .judged import judged_rows

LORA = QUICK["lora"]
# qlora is left out: bitsandbytes has other kernels for each device.
RUNS: dict[str, dict[str, Any]] = {
    **{f"method {name}": {"method": name} for name in METHOD_RATES if name not in ("qlora", "oft")},
    "method oft, divergence": {"method": "oft", "oft": {"block_size": 16}, "kl": {"beta": 1}},
    **{f"init {name}": {"lora": LORA | {"init": name}} for name in ("pissa", "corda", "eva")},
    "dora, dropout, head, divergence": {"lora": LORA | {"use_dora": True, "dropout": 0.1, "train_head": True}, "kl": {"beta": 1}},
    "dropout": {"lora": LORA | {"dropout": 0.1}},
    "padded, divergence": {"packing": "padded", "kl": {"beta": 1}, "save_steps": 1},
    "ewc": {"anchor": {"kind": "ewc"}},
    "l2_sp": {"method": "full", "anchor": {"kind": "l2_sp"}},
    "flow": {"weighting": {"kind": "flow"}},
    **{name: {"objective": name} for name in ("dpo", "kto", "orpo")},
    "t5": {"method": "bottleneck"},
}  # fmt: skip


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory, mixture: Path, pairs: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mixtures")
    classes = [row | {"labels": [i % 2], "part": "target"} for i, row in enumerate(token_rows())]
    artifacts.write_rows(folder / "classes", "retain.mixture/1", classes, options={"class_names": ["even", "odd"]})
    for kind in ("preference", "kto"):
        artifacts.write_rows(folder / kind, "retain.mixture/1", judged_rows(kind))
    judged = {"dpo": folder / "preference", "orpo": folder / "preference", "kto": folder / "kto"}
    return {"": mixture, "t5": pairs, "method probe": folder / "classes", **judged}


@pytest.fixture
def run(mixtures: dict[str, Path], tiny_llama: Path, family: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], TrainResult]:  # fmt: skip
    """Train as RUNS says, on the pretended GPU; a base is read from its file before, as without one."""
    monkeypatch.setattr(device, "own", lambda config: "cuda:0")
    monkeypatch.setattr(speed, "free_memory", lambda device: 2**40)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1)
    load_model = models.load_model

    def call(name: str) -> TrainResult:
        knobs = {"device": "cuda", "max_steps": 2, "eval_steps": 2, **RUNS[name]}
        quick = {**QUICK, "lora": LORA if knobs.get("method", "lora") == "lora" else {}}
        folder = family("t5") if name == "t5" else tiny_llama
        base = load_model(folder, dtype="fp32", seq2seq=name == "t5")
        monkeypatch.setattr(models, "load_model", lambda folder, **settings: base.to(settings["device"]).eval())
        with pretend.gpu() as place:
            result = train(TrainConfig(**{**quick, **knobs}), mixtures.get(name, mixtures[""]), folder, tmp_path / "adapter", tmp_path / "checkpoints")  # fmt: skip
            assert {place(parameter) for parameter in base.parameters()} == {pretend.CUDA}
        return result

    return call


@pytest.mark.parametrize("name", RUNS)
def test_a_training_on_it_meets_no_tensor_of_the_cpu(name: str, run: Callable[[str], TrainResult]) -> None:
    result = run(name)
    assert result.base_target_validation_nats != result.target_validation_nats


def test_a_checkpoint_is_taken_up_on_it(run: Callable[[str], TrainResult], tmp_path: Path) -> None:
    whole = run("padded, divergence")
    next((tmp_path / "checkpoints").glob("*/step-00000002")).rename(tmp_path / "gone")
    again = run("padded, divergence")
    assert (again.resumed_at, again.adapter_digest) == (1, whole.adapter_digest)


def test_it_knows_what_a_gpu_refuses() -> None:
    with pretend.gpu() as place:
        weight, index = torch.ones(3, 2, device="cuda"), torch.zeros(2, dtype=torch.long)
        assert place(weight * 2) == place(weight[index]) == place(weight + torch.tensor(1.0)) == pretend.CUDA
        assert place(weight.cpu()) == pretend.CPU
        for wrong in (lambda: weight + torch.ones(3, 2), lambda: torch.nn.functional.embedding(index, weight), lambda: torch.cat([weight, weight.cpu()])):  # fmt: skip
            with pytest.raises(RuntimeError, match="on the same device"):
                wrong()
        with pytest.raises(TypeError, match="to numpy"):
            weight.numpy()
