"""A real OpenAI-compatible server (transformers serve) with the gated template, and with one that someone changed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retain.errors import ConfigError, DataRefused, EnvironmentFault, ExitCode
from retain.parity.config import ParityConfig
from retain.parity.door import run
from retain.parity.work import look

pytestmark = pytest.mark.timeout(180)
# What people add "to be safe": a system turn where the chat has none.
BRIEF = "{% if brief %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
HELPFUL = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"


@contextmanager
def serving(model: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    server = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert server.poll() is None, "the server did not start"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def model(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its template takes one variable."""
    return prefixed(tiny_llama, tmp_path_factory.mktemp("served") / "model", BRIEF)


@pytest.fixture(scope="module")
def endpoint(model: Path) -> Iterator[str]:
    with serving(model) as address:
        yield address


def prefixed(model: Path, folder: Path, text: str) -> Path:
    """A copy of the model with something before its template."""
    template = shutil.copytree(model, folder) / "chat_template.jinja"
    template.write_text(text + template.read_text())
    return folder


def settings(endpoint: str, model: Path, **changes: object) -> dict[str, object]:
    return {"endpoint": endpoint, "model": str(model), "retries": 0, **changes}


def test_the_same_template_counts_the_same_tokens(endpoint: str, model: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    found = run(settings(endpoint, model), str(model))
    assert found["same"]
    assert len({row["there"] for row in found["compared"]}) > 5, "the chats are of different lengths"
    shown = capsys.readouterr().out
    assert "three turns" in shown
    assert "OTHER" not in shown


def test_a_changed_template_is_named_by_its_first_chat(endpoint: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    changed = prefixed(model, tmp_path / "changed", HELPFUL)
    with pytest.raises(SystemExit) as ended:
        run(settings(endpoint, model), str(changed))
    assert ended.value.code == ExitCode.INTEGRITY
    shown = capsys.readouterr()
    assert "the server reads 7 of 9 chats otherwise than the model was gated" in shown.err
    assert "with a system turn" in shown.out
    assert "Traceback" not in shown.err


def test_chats_of_ones_own_are_asked_without_their_last_answer(endpoint: str, model: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "the parcel"}, {"role": "assistant", "content": "on monday"}]
    (tmp_path / "mine.jsonl").write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": turns[:1]}) + "\n")  # fmt: skip
    *_, first, second = look(ParityConfig(**settings(endpoint, model)), model, tmp_path / "mine.jsonl").compared  # type: ignore[arg-type]  # fmt: skip
    assert (first.name, second.name) == ("line 1", "line 2")
    assert first.here == second.here == first.there


def test_template_variables_reach_the_server(endpoint: str, model: Path) -> None:
    plain, brief = (look(ParityConfig(**settings(endpoint, model, template_kwargs=kwargs)), model) for kwargs in ({}, {"brief": True}))  # type: ignore[arg-type]  # fmt: skip
    assert plain.same
    assert brief.same
    assert all(more.there > less.there for more, less in zip(brief.compared, plain.compared, strict=True))
    assert brief.template_digest != plain.template_digest


def test_a_server_that_is_not_there_or_refuses(endpoint: str, model: Path) -> None:
    with pytest.raises(EnvironmentFault, match="the server does not answer"):
        look(ParityConfig(**settings("http://127.0.0.1:9/v1", model)), model)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the server refuses the request"):
        look(ParityConfig(**settings(endpoint + "/nowhere", model)), model)  # type: ignore[arg-type]


@pytest.mark.parametrize("line", ["{", '{"messages": []}', "[1]"])
def test_a_file_without_chats_is_refused_with_its_line(line: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(line)
    with pytest.raises(DataRefused, match=r"mine\.jsonl:1"):
        look(ParityConfig(**settings("http://127.0.0.1:9/v1", model)), model, tmp_path / "mine.jsonl")  # type: ignore[arg-type]
