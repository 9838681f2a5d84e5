"""Every method on every family of models: it trains, or it is refused with the reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retain import artifacts
from retain.errors import ConfigError, RetainError
from retain.train.config import METHOD_RATES

from . import methods_page
from .conftest import Trained, token_rows
from .families import FAMILIES, PAIRS
from .methods_page import REFUSED


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class indices for a probe."""
    folder = tmp_path_factory.mktemp("classes") / "mixture"
    rows = [row | {"labels": [i % 2], "part": "target"} for i, row in enumerate(token_rows())]
    artifacts.write_rows(folder, "retain.mixture/1", rows, options={"class_names": ["even", "odd"]})
    return folder


DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("method", METHOD_RATES)
def test_method_on_family(method: str, name: str, device: str, trained: Trained, family: Callable[[str], Path], mixture: Path, pairs: Path, classes: Path) -> None:  # fmt: skip
    rows = classes if method == "probe" else pairs if name in PAIRS else mixture

    def run() -> Any:
        return trained(model=family(name), rows=rows, device=device, method=method, max_steps=2, eval_steps=2, warmup_ratio=0, oft={"block_size": 16} if method == "oft" else {}, lora={}, learning_rate=1e-2)  # fmt: skip

    if (method, name) in REFUSED:
        with pytest.raises(RetainError, match=REFUSED[method, name]):
            run()
        return
    result = run()
    assert result.target_validation_nats != result.base_target_validation_nats
    assert result.trainable_parameters > 0


def test_the_low_rank_methods_cannot_train_a_knob_they_do_not_read(trained: Trained) -> None:
    with pytest.raises(ConfigError, match="does not read these settings: lora"):
        trained(method="full", lora={"r": 2})


def test_a_quantised_base_is_not_trained_in_full(trained: Trained, tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    small = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(str(tiny_llama), quantization_config=small, device_map={"": "cpu"}).save_pretrained(str(tmp_path / "nf4"))  # fmt: skip
    with pytest.raises(ConfigError, match="quantised base cannot be trained in full"):
        trained(model=tmp_path / "nf4", method="full")


def test_the_page_says_what_the_code_does(tiny_llama: Path) -> None:
    assert methods_page.PAGE.read_text(encoding="utf-8") == methods_page.render(methods_page.answers(tiny_llama))
