"""A GGUF file of ours in llama.cpp itself: the same tokens, the same template, the same greedy answers."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from retain import models
from retain.compress.config import CompressConfig
from retain.compress.work import compress

from ...conftest import SENTENCE, build_llama, ten_chats

xllamacpp = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: no GGUF file was opened by llama.cpp")
# Largest difference of a token's log-probability; Q8_0: llama.cpp rounds the activations to 8 bits too.
WITHIN = {"F32": 1e-3, "F16": 5e-3, "Q8_0": 0.05}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llama(tmp_path_factory.mktemp("tuned") / "model", hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module", params=list(WITHIN))
def opened(request: pytest.FixtureRequest, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:  # fmt: skip
    """(type of the file, its folder, llama.cpp's server on it)."""
    folder = tmp_path_factory.mktemp("gguf")
    compress(CompressConfig(method="gguf", gguf_type=request.param, device="cpu", probe_rows=1, probe_tokens=8), tuned, folder)  # fmt: skip
    how = xllamacpp.CommonParams()
    how.model.path, how.n_ctx, how.warmup = str(next(folder.glob("*.gguf"))), 256, False
    how.cpuparams.n_threads = how.cpuparams_batch.n_threads = 1
    return request.param, folder, xllamacpp.Server(how)


def asked(server: Any, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_words_and_template_are_the_models_own(opened: tuple[str, Path, Any], tuned: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer, server = AutoTokenizer.from_pretrained(str(tuned)), opened[2]
    for text in (SENTENCE, "Where's parcel 4711?\n\n  naïve — 東京", " a  b\tc"):
        assert asked(server, "/tokenize", {"content": text})["tokens"] == tokenizer(text)["input_ids"]
    chat = ten_chats()[0][:1]
    told = asked(server, "/apply-template", {"messages": chat})["prompt"]
    assert told == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def test_greedy_answers_and_their_probabilities(opened: tuple[str, Path, Any]) -> None:
    import torch

    kind, folder, server = opened
    ours = models.load_model(folder, dtype="fp32")
    for first in (5, 17, 300):
        prompt = [first, 42, 7, 211, 90]
        how = {"n_predict": 16, "temperature": 0, "n_probs": 1, "cache_prompt": False, "ignore_eos": True, "return_tokens": True}  # fmt: skip
        told = asked(server, "/completion", {"prompt": prompt, **how})
        tokens = told["tokens"]
        with torch.inference_mode():
            logits = ours(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
        assert len(tokens) == 16
        assert kind == "Q8_0" or logits.argmax(-1).tolist() == tokens
        at, steps = -1, told["completion_probabilities"]  # none for a token that ends inside a character
        for step in steps:
            at = tokens.index(step["id"], at + 1)
            assert abs(float(logits[at].log_softmax(-1)[tokens[at]]) - step["logprob"]) < WITHIN[kind]
        assert len(steps) >= 4
