"""Damaged, lying and foreign inputs: each is refused in words, harms nothing and leaves nothing that looks whole."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import digest, models
from retain.errors import ConfigError, IntegrityError, RetainError
from retain.merge import stream
from retain.merge.config import MergeConfig
from retain.merge.work import merge

from .conftest import build_adapter, build_base

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
QUICK = MergeConfig(probe_rows=1, probe_tokens=8)
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ in several shards, and adapter/."""
    root = tmp_path_factory.mktemp("made")
    base = build_base(root / "base", dtype="bfloat16", shard="20KB")
    build_adapter(root / "adapter", base)
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "a b ü"))


def refused(here: Path, kind: type[RetainError], told: str, **weights: float) -> None:
    before = _inputs(here)
    with pytest.raises(kind, match=told):
        merge(QUICK, here / "base", [(here / "adapter", weights.get("weight", 1.0))], here / "out")
    assert _inputs(here) == before
    assert not (here / "out").exists() or not list((here / "out").iterdir())


def _inputs(here: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for name in ("base", "adapter") for p in (here / name).iterdir() if p.is_file()}


def _shard(here: Path) -> Path:
    return min((here / "base").glob("*.safetensors"))


def _edited(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Its header (or the JSON file itself) changed; ``change`` may return another one."""
    data = file.read_bytes()
    bare = file.suffix == ".json"
    size = 0 if bare else struct.unpack("<Q", data[:8])[0]
    value = json.loads(data if bare else data[8 : 8 + size])
    value = change(value) or value
    head = json.dumps(value).encode()
    file.write_bytes(head if bare else struct.pack("<Q", len(head)) + head + data[8 + size :])


def _first(header: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in header.items() if name != "__metadata__")


def _overlap(header: dict[str, Any]) -> None:
    one, two = [entry for name, entry in header.items() if name != "__metadata__"][:2]
    two["data_offsets"] = [one["data_offsets"][0], one["data_offsets"][0] + two["data_offsets"][1] - two["data_offsets"][0]]  # fmt: skip


HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "overlapping": _overlap,
    "short": lambda h: _first(h)["data_offsets"].__setitem__(1, 4),
    "negative": lambda h: _first(h)["data_offsets"].__setitem__(0, -64),
    "negative shape": lambda h: _first(h).update(shape=[-1, -1]),
    "absurd shape": lambda h: _first(h).update(shape=[2**62, 2**62]),
    "no shape": lambda h: _first(h).pop("shape") and None,
    "a list": lambda h: [1, 2],
    "an entry that is a number": lambda h: h.update({"model.norm.weight": 3}),
    "metadata that is a number": lambda h: h.update(__metadata__=3),
}  # fmt: skip


@pytest.mark.parametrize("how", HEADERS)
def test_a_header_that_lies(how: str, here: Path) -> None:
    _edited(_shard(here), HEADERS[how])
    refused(here, IntegrityError, "damaged or cut short")


def test_a_type_that_is_not_known(here: Path) -> None:
    _edited(_shard(here), lambda h: _first(h).update(dtype="F4"))
    refused(here, ConfigError, "this type")


@pytest.mark.parametrize("how", ["cut", "empty", "length", "missing", "folder", "pipe"])
def test_a_shard_that_is_damaged_or_no_file(how: str, here: Path) -> None:
    file = _shard(here)
    data = bytearray(file.read_bytes())
    data[6] ^= 0x7F
    file.write_bytes({"cut": bytes(data[:-10]), "length": bytes(data)}.get(how, b""))
    if how in ("missing", "folder", "pipe"):
        file.unlink()
    if how == "folder":
        file.mkdir()
    if how == "pipe":
        os.mkfifo(file)
        (here / "base" / INDEX).unlink()
    refused(here, IntegrityError, "damaged or cut short|do not agree")


def _swap(index: dict[str, Any]) -> None:
    places = index["weight_map"]
    one, two = min(places, key=places.get), max(places, key=places.get)
    places[one], places[two] = places[two], places[one]


INDICES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "swapped": _swap,
    "a file that is not there": lambda i: i["weight_map"].update({"model.norm.weight": "nowhere.safetensors"}),
    "a file of another folder": lambda i: i["weight_map"].update({"model.norm.weight": "../adapter/adapter_model.safetensors"}),
    "a tensor that is not there": lambda i: i["weight_map"].update({"model.gone": min(i["weight_map"].values())}),
    "a list": lambda i: [1],
}  # fmt: skip


@pytest.mark.parametrize("how", INDICES)
def test_an_index_that_lies(how: str, here: Path) -> None:
    _edited(here / "base" / INDEX, INDICES[how])
    refused(here, IntegrityError, "do not agree")


def test_a_second_copy_beside_the_shards_is_left_out_and_said(here: Path) -> None:
    shutil.copy(_shard(here), here / "base" / "consolidated.safetensors")
    done = merge(QUICK, here / "base", [(here / "adapter", 1.0)], here / "out")
    assert "consolidated.safetensors" in " ".join(done.notes)
    assert not (here / "out" / "consolidated.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ({"task_type": "SEQ_CLS"}, ConfigError, "another task"),
        ({"task_type": "SEQ_2_SEQ_LM"}, ConfigError, "another task"),
        ({"lora_alpha": None}, IntegrityError, "do not fit together"),
        ({"lora_alpha": float("nan")}, IntegrityError, "do not fit together"),
        ({"alpha_pattern": {"q_proj(": 3}}, IntegrityError, "do not fit together"),
        ({"r": 2}, IntegrityError, "do not fit together"),
    ],
)
def test_settings_that_do_not_fit(change: dict[str, Any], kind: type[RetainError], told: str, here: Path) -> None:
    _edited(here / "adapter" / "adapter_config.json", lambda settings: settings.update(change))
    refused(here, kind, told)


@pytest.mark.parametrize("text", ["", "[]", "\udcff"])
@pytest.mark.parametrize("file", ["adapter/adapter_config.json", "base/config.json"])
def test_settings_that_are_no_json(file: str, text: str, here: Path) -> None:
    (here / file).write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(here, IntegrityError, "settings file is damaged")


def _tensors(here: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    file = here / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def test_tensors_that_do_not_fit(here: Path) -> None:
    import torch

    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    for change, kind, told in (
        (lambda t: t[first].fill_(float("nan")), IntegrityError, "NaN"),
        (lambda t: t[first].fill_(float("inf")), IntegrityError, "NaN"),
        (lambda t: t.update({first: t[first][:2]}), IntegrityError, "do not fit together"),
        (lambda t: t.update({first: t[first].to(torch.int8)}), ConfigError, "floating-point"),
        (lambda t: t.clear(), IntegrityError, "equals its base"),
    ):
        _tensors(here, change)
        refused(here, kind, told)
        shutil.rmtree(here / "adapter")
        shutil.copytree(here.parent / "whole", here / "adapter")


@pytest.fixture(autouse=True)
def _whole(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "adapter", tmp_path / "whole")


def test_weights_that_are_no_weights(here: Path) -> None:
    refused(here, ConfigError, "cannot be merged with", weight=float("nan"))
    with pytest.raises(ConfigError, match="none below 0"):
        merge(MergeConfig(method="slerp"), here / "base", [(here / "adapter", 1.0), (here / "adapter", -1.0)], here / "out")  # fmt: skip


def test_a_model_that_is_not_what_its_settings_say(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    settings = (here / "base" / "config.json").read_text()
    code = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C"}}
    for change, kind, told in (
        ({"model_type": "dance"}, ConfigError, "does not know"),
        (code, ConfigError, "does not know"),
        ({"hidden_size": 64, "head_dim": 16}, IntegrityError, "cannot load"),
        ({"num_hidden_layers": 3}, IntegrityError, "does not load whole"),
    ):
        (here / "base" / "config.json").write_text(json.dumps({**json.loads(settings), **change}))
        refused(here, kind, told)
    assert "[y/N]" not in capfd.readouterr().out


@pytest.mark.parametrize("who", ["base/tokenizer.json", "adapter/adapter_model.safetensors", "out/tokenizer.json"])
def test_a_file_that_appears_or_changes_during_the_merge(who: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = stream.run

    def meanwhile(*given: Any) -> stream.Written:
        done = real(*given)
        data = (here / who).read_bytes() if (here / who).is_file() else b"{}"
        (here / who).write_bytes(data)
        return done

    monkeypatch.setattr(stream, "run", meanwhile)
    with pytest.raises(IntegrityError, match=r"changed while it was merged|somebody else"):
        merge(QUICK, here / "base", [(here / "adapter", 1.0)], here / "out")
    assert not (here / "out" / "manifest.json").exists()


def test_links_are_followed_and_never_written_through(here: Path) -> None:
    for file in list((here / "base").iterdir()):
        blob = here / "blobs" / file.name
        blob.parent.mkdir(exist_ok=True)
        file.replace(blob)
        file.symlink_to(blob)
    before = digest.of_model(here / "blobs")
    done = merge(QUICK, here / "base", [(here / "adapter", 1.0)], here / "out")
    assert done.digest == digest.of_model(here / "out")
    assert not any(path.is_symlink() for path in (here / "out").iterdir())
    assert digest.of_model(here / "blobs") == before
    models.check_folder(here / "out")
