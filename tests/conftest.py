"""Small real things that every room's tests share: a tokenizer trained in a second, a 2-layer model, ten chats."""

import os

# Before any import of the libraries themselves: no pings, no hub, one thread a worker.
os.environ.update(
    HF_HUB_OFFLINE="1", HF_UPDATE_DOWNLOAD_COUNTS="false", MLFLOW_DISABLE_TELEMETRY="true", GX_ANALYTICS_ENABLED="false",
    TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error",
)  # fmt: skip

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import servers

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SENTENCE = "the customer asks where a parcel is and the shop answers that it will come on monday morning please send an invoice"
WORDS = SENTENCE.split()


def ten_chats() -> list[list[dict[str, str]]]:
    """Ten two-turn chats over a small vocabulary."""
    return [
        [{"role": "user", "content": " ".join(WORDS[i : i + 6]) + f" number {i}?"}, {"role": "assistant", "content": " ".join(WORDS[i + 2 : i + 7]) + "."}]
        for i in range(10)
    ]  # fmt: skip


@pytest.fixture(scope="session")
def chats() -> list[list[dict[str, str]]]:
    return ten_chats()


def build_tokenizer() -> Any:
    """A byte-level BPE of at most 400 tokens with a ChatML template that has no generation markers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", bos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHATML
    tokenizer.model_max_length = 512
    return tokenizer


def build_llama(folder: Path, *, seed: int = 0, dtype: str = "float32", **changes: Any) -> Path:
    """A random 2-layer Llama with its tokenizer, saved in Hugging Face layout."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).to(getattr(torch, dtype))
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random 2-layer Llama in fp32 (do not write into it)."""
    return build_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A real file system of 160 KiB, or of as many as the test's parameter says."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', 160)}k", "tmpfs", str(place)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"NOT TESTED HERE: a small file system cannot be mounted ({made.stderr.strip()})")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sqlite registry with its tables, made once."""
    from mlflow.tracking import MlflowClient

    file = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_registered_models()
    return file


@pytest.fixture
def registry_home(tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a registry of its own, for this process and its children."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(empty_registry, folder)
    monkeypatch.setenv("RETAIN_HOME", str(folder))
    monkeypatch.setenv("RETAIN_RUN_ID", "run-1")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def key_pair(tmp_path: Path) -> tuple[Path, Path]:
    """(private, public) EC keys in PEM form."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="session")
def noisy_adapter() -> Callable[..., Path]:
    """make(folder, base, size=…, seed=…, **LoraConfig) → a LoRA of random directions."""

    def make(folder: Path, base: Path, *, size: float = 0.05, seed: int = 0, **settings: Any) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model

        from retain import models

        torch.manual_seed(seed)
        shape = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings}
        model = get_peft_model(models.load_model(base, dtype="fp32"), LoraConfig(**shape))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_" in name:
                parameter.data = torch.randn_like(parameter) * size
        model.save_pretrained(str(folder))
        return folder

    return make


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real S3 store on loopback with a bucket ``models``; each test writes under a prefix of its own."""
    try:
        with servers.s3_store(tmp_path_factory.mktemp("weed")) as environment:
            yield environment["AWS_ENDPOINT_URL"]
    except servers.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, with its keys in the environment."""
    for name, value in {**servers.KEYS, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return s3_server
