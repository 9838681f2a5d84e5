"""Each way of making a model smaller: the right entries, the right file, a proof, and a gate that must be passed again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from retain import digest, models
from retain.artifacts import read_json
from retain.compress import prune, vocabulary
from retain.compress.config import CompressConfig, Method
from retain.compress.work import compress
from retain.errors import ConfigError, EnvironmentFault, IntegrityError

from ...conftest import build_llama
from ..merge.conftest import build_base

QUICK = {"probe_rows": 2, "probe_tokens": 8, "device": "cpu"}
Make = Callable[..., Path]


def config(method: str, **changes: Any) -> CompressConfig:
    return CompressConfig.model_validate({"method": method, **QUICK, **changes})


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bf16 model whose matrices have a whole number of packed blocks, with the manifest of a merge beside it."""
    folder = build_llama(tmp_path_factory.mktemp("tuned") / "model", dtype="bfloat16", hidden_size=64, intermediate_size=128)  # fmt: skip
    card = {"schema": "retain.manifest/1", "files": digest.model_manifest(folder), "base_digest": "sha256:" + "b" * 64, "method": "linear", "strength": 0.8, "adapters": [], "notes": []}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(card))
    return folder


@pytest.fixture(scope="session")
def compressed(tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """method → (folder, result), each made once."""
    root = tmp_path_factory.mktemp("compressed")
    return {name: (root / str(i), compress(config(name), tuned, root / str(i))) for i, name in enumerate(get_args(Method))}  # fmt: skip


@pytest.mark.parametrize("method", get_args(Method))
def test_a_new_candidate_with_its_proof(method: str, compressed: dict[str, Any], tuned: Path) -> None:
    folder, result = compressed[method]
    assert result.digest == digest.of_model(folder) != digest.of_model(tuned)
    facts = read_json(folder / "compression.json", schema="retain.compression/1")
    assert facts["from_digest"] == digest.of_model(tuned)
    assert facts["model_digest"] == result.digest
    assert 0 < facts["drift"]["kl_nats"] < 1
    assert facts["drift"]["rms_difference"] > 0
    card = read_json(folder / "manifest.json", schema="retain.manifest/1")
    assert (card["compressed"], card["made_from"]["strength"]) == (method, 0.8)
    assert card["files"] == digest.model_manifest(folder)
    assert digest.of_tokenizer(folder) == digest.of_tokenizer(tuned)  # the gate would refuse another one
    packed = {"int8": 0.85, "nf4": 0.7, "gguf": 0.85}
    assert (
        (facts["bytes"] < packed[method] * facts["bytes_before"]) if method in packed else facts["zeros_ratio"] == 0.5
    )
    assert (folder / "config.json").is_file()


@pytest.mark.parametrize("method", get_args(Method))
def test_the_scorer_opens_it(method: str, compressed: dict[str, Any], tmp_path: Path) -> None:
    from retain.score.config import ScoreConfig
    from retain.score.work import score

    task = {"task": "tiny", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.json")}}, "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": ["yes", "no"], "doc_to_target": "{{a}}"}  # fmt: skip
    (tmp_path / "rows.json").write_text("\n".join(json.dumps({"q": f"is it monday {i} ?", "a": i % 2}) for i in range(4)))  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(json.dumps(task))
    asked = ScoreConfig.model_validate({"tasks": [{"name": "tiny"}], "include_path": [str(tmp_path)], "target": {"metric": "none"}, "device": "cpu", "dtype": "fp32"})  # fmt: skip
    folder, result = compressed[method]
    done = score(asked, folder, tmp_path / "scores")
    assert (done.model_digest, done.items) == (result.digest, 4)


def test_magnitude_keeps_the_largest_entries_as_they_were(compressed: dict[str, Any], tuned: Path) -> None:
    from safetensors.torch import load_file

    folder, _ = compressed["magnitude"]
    before, after = load_file(tuned / "model.safetensors"), load_file(folder / "model.safetensors")
    changed = {name for name in before if not before[name].equal(after[name])}
    assert len(changed) == 14
    assert not [name for name in changed if "norm" in name or "embed" in name or "lm_head" in name]
    for name in changed:
        kept = after[name] != 0
        assert after[name][kept].equal(before[name][kept])
        assert float(before[name][kept].abs().min()) >= float(before[name][~kept].abs().max())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_two_of_every_four_inputs_are_zero(family: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    base = build_base(tmp_path / "base", family, shard="20KB")
    compress(config("2:4"), base, tmp_path / "out")
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) == len(list(base.glob("*.safetensors"))) > 1
    pruned = read_json(tmp_path / "out" / "compression.json", schema="retain.compression/1")["zeros"]
    assert len(pruned) == {"llama": 14, "gpt2": 8}[family]
    before = {name: t for path in base.glob("*.safetensors") for name, t in load_file(path).items()}
    for name, tensor in ((n, t) for path in shards for n, t in load_file(path).items() if n in pruned):
        table, old = (tensor.T, before[name].T) if family == "gpt2" else (tensor, before[name])
        groups, was = table.reshape(table.shape[0], -1, 4), old.reshape(table.shape[0], -1, 4).abs()
        assert ((groups == 0).sum(2) == 2).all(), name
        assert (was.masked_fill(groups == 0, 9).amin(2) >= was.masked_fill(groups != 0, 0).amax(2)).all(), name


def test_masks_on_ties_and_odd_widths() -> None:
    import torch

    assert prune.smallest(torch.ones(4, 4), 0.5).sum() == 8
    assert prune.smallest(torch.arange(6.0).view(2, 3), 0.3).flatten().tolist() == [True, True, False, False, False, False]  # fmt: skip
    with pytest.raises(ConfigError, match="multiple of four"):
        prune.two_of_four(torch.ones(4, 6), True, "w")


def test_every_knob_moves_the_result(tuned: Path, compressed: dict[str, Any], tmp_path: Path) -> None:
    knobs: list[tuple[str, dict[str, Any]]] = [
        ("magnitude", {"sparsity": 0.2}), ("magnitude", {"skip": ["mlp", "lm_head"]}), ("nf4", {"double_quant": False}), ("int8", {"skip": ["lm_head", "q_proj"]}),
        ("gguf", {"gguf_type": "F16"}), ("gguf", {"gguf_type": "BF16"}), ("gguf", {"gguf_type": "F32"}), ("gguf", {"skip": []}), ("gguf", {"gguf_vocabulary": "smollm"}),
    ]  # fmt: skip
    found = {compressed[method][1].digest for method in get_args(Method)}
    for i, (method, change) in enumerate(knobs):
        found.add(compress(config(method, **change), tuned, tmp_path / str(i)).digest)
    assert len(found) == len(get_args(Method)) + len(knobs)
    drifts = {compress(config("2:4", **change), tuned, tmp_path / "p").kl_nats for change in ({}, {"seed": 1}, {"probe_rows": 3}, {"probe_tokens": 9})}  # fmt: skip
    assert len(drifts) == 4
    with pytest.raises(EnvironmentFault, match="no CUDA"):
        compress(config("nf4", device="cuda"), tuned, tmp_path / "q")


def test_a_gguf_file_holds_the_model_and_its_vocabulary(tuned: Path, tmp_path: Path) -> None:
    import torch
    from gguf import GGUFReader

    compress(config("gguf", gguf_type="F32"), tuned, tmp_path / "out")
    ids = torch.tensor([[5, 17, 300, 42, 7]])
    with torch.inference_mode():
        one, two = (models.load_model(f, dtype="fp32")(ids).logits for f in (tuned, tmp_path / "out"))
    torch.testing.assert_close(one, two)  # the rows of q and k went there and back
    reader = GGUFReader(tmp_path / "out" / "model-f32.gguf")
    tokens = [bytes(p).decode() for p in (reader.fields["tokenizer.ggml.tokens"].parts[i] for i in reader.fields["tokenizer.ggml.tokens"].data)]  # fmt: skip
    vocabulary_of = json.loads((tuned / "tokenizer.json").read_text())["model"]["vocab"]
    assert all(tokens[number] == text for text, number in vocabulary_of.items())
    fields = {name: field.contents() for name, field in reader.fields.items() if name != "tokenizer.ggml.tokens"}
    assert (fields["tokenizer.ggml.pre"], fields["tokenizer.ggml.eos_token_id"]) == ("gpt-2", 2)
    assert "<|im_start|>" in fields["tokenizer.chat_template"]


def test_the_splitting_rule_of_a_vocabulary_is_known_or_asked_for(tmp_path: Path) -> None:
    def named(*steps: dict[str, Any]) -> str:
        return vocabulary.split_rule({"pre_tokenizer": {"type": "Sequence", "pretokenizers": list(steps)}}, tmp_path)

    words, plain = {"type": "ByteLevel", "use_regex": True}, {"type": "ByteLevel", "use_regex": False}
    llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    assert named(words) == "gpt-2"
    assert named({"type": "Digits", "individual_digits": True}, words) == "smollm"
    assert named({"type": "Split", "pattern": {"Regex": llama3}}, plain) == "llama-bpe"
    assert named({"type": "Split", "pattern": {"Regex": llama3.replace("{1,3}", "")}}, plain) == "qwen2"
    with pytest.raises(ConfigError, match="no known name"):
        named({"type": "Whitespace"}, plain)


def test_what_cannot_be_compressed_is_said(tuned: Path, compressed: dict[str, Any], tmp_path: Path) -> None:
    for method in ("nf4", "gguf"):
        with pytest.raises(ConfigError, match="packed already"):
            compress(config("2:4"), compressed[method][0], tmp_path / "out")
    with pytest.raises(ConfigError, match="folder of its own"):
        compress(config("2:4"), tuned, tuned)
    with pytest.raises(ConfigError, match="nothing in this model"):
        compress(config("2:4", skip=["mlp", "self_attn", "lm_head"]), tuned, tmp_path / "out")
    with pytest.raises(IntegrityError, match="equals the original"):
        compress(config("2:4"), compressed["2:4"][0], tmp_path / "out")
    for family, change, told in (("gpt2", {}, "kind of model"), ("llama", {"attention_bias": True}, "variant"), ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "rotary")):  # fmt: skip
        other = build_base(tmp_path / f"{family}-{told}", family, **change)
        with pytest.raises(ConfigError, match=told):
            compress(config("gguf"), other, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        compress(config("gguf"), build_base(tmp_path / "plain"), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(("method", "module"), [("int8", "bitsandbytes"), ("nf4", "bitsandbytes"), ("gguf", "gguf")])
def test_a_missing_library_is_named(method: str, module: str, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EnvironmentFault, match=module):
        compress(config(method), tuned, tmp_path / "out")


def test_killed_in_the_middle_it_is_unfinished_and_the_next_run_makes_it_whole(tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = f"""
        import os, signal
        from pathlib import Path
        from retain.compress import proof, work
        from retain.compress.config import CompressConfig
        proof.drift = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
        work.compress(CompressConfig(method="2:4", device="cpu"), Path({str(tuned)!r}), Path({str(out)!r}))
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True).returncode == -signal.SIGKILL  # fmt: skip
    assert (out / "model.safetensors").is_file()
    assert not (out / "manifest.json").exists()
    (out / "model-q8_0.gguf").write_bytes(b"of another method")
    (out / "model.safetensors.partial").write_bytes(b"cut")
    result = compress(config("2:4"), tuned, out)
    assert digest.of_model(out) == result.digest
    assert not list(out.glob("*.partial"))


def test_a_damaged_original_is_found(tuned: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tuned, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes((tuned / "model.safetensors").read_bytes()[:-9])
    for method in get_args(Method):
        with pytest.raises(IntegrityError):
            compress(config(method), broken, tmp_path / "out")


def test_the_pipelines_face_and_the_command(tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kfp import dsl

    from retain.compress.component import compress as face

    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RETAIN_TRACKING", "later")
    model, out = dsl.Model(uri=str(tuned)), dsl.Model(uri=str(tmp_path / "out"))
    face.python_func({"method": "magnitude", "sparsity": 0.25, **QUICK}, model, out)
    assert out.metadata["digest"] == digest.of_model(tmp_path / "out")
    from typer.testing import CliRunner

    from retain_pipelines.cli.app import app

    command = ["compress", "--model", str(tuned), "--method", "magnitude", "--out", str(tmp_path / "cli"), "--json"]
    flags = [f"--set={key}={value}" for key, value in {"sparsity": 0.25, **QUICK}.items()]
    said = CliRunner().invoke(app, [*command, *flags])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["digest"] == out.metadata["digest"]


def test_weights_that_this_machine_cannot_compute_with_are_said(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retain.compress import proof

    real = proof._logits

    def narrow(model: Any, rows: Any) -> Any:
        if getattr(model.config, "quantization_config", None):
            raise RuntimeError("shape '[32, 0]' is invalid for input of size 16")
        return real(model, rows)

    monkeypatch.setattr(proof, "_logits", narrow)
    with pytest.raises(EnvironmentFault, match="cannot compute"):
        compress(config("nf4"), tuned, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
