import json
from pathlib import Path

import pytest

from retain import models
from retain.errors import ConfigError, EnvironmentFault, IntegrityError


def test_pickled_weights_are_refused_and_never_opened(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04not opened")
    with pytest.raises(IntegrityError, match=r"pickle can run any code(.|\n)*pytorch_model\.bin"):
        models.check_folder(tmp_path)


@pytest.mark.parametrize(("files", "words"), [((), "holds no model"), (("config.json",), "has no weights")])
def test_a_folder_without_a_model_says_what_is_missing(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=words):
        models.check_folder(tmp_path)


def test_a_truncated_file_is_no_traceback(tiny_llama: Path, tmp_path: Path) -> None:
    for path in tiny_llama.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 200 if path.suffix == ".safetensors" else None])
    with pytest.raises(IntegrityError, match="cannot be opened"):
        models.load_model(tmp_path)


def test_precision_by_name(tiny_llama: Path) -> None:
    import torch

    assert models.load_model(tiny_llama, dtype="bf16").dtype == torch.bfloat16
    assert models.load_model(tiny_llama, dtype="fp32").dtype == torch.float32


def test_a_missing_gpu_is_said_not_replaced() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("THIS MACHINE HAS A GPU: asking for one cannot fail here")
    assert models.pick_device("auto") == "cpu"
    with pytest.raises(EnvironmentFault, match="no CUDA device"):
        models.pick_device("cuda:0")


def test_a_tokenizer_always_has_a_pad_token(tiny_llama: Path, tmp_path: Path) -> None:
    for path in tiny_llama.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert models.load_tokenizer(tmp_path).pad_token_id is not None
