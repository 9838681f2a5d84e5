"""What will be written, before anything is: every output tensor, where it comes from and what changes it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain import models
from retain.errors import ConfigError, IntegrityError
from retain.merge import depth
from retain.merge.adapters import Adapter, embedding_of
from retain.merge.config import MergeConfig
from retain.merge.deltas import Delta, Dora, LowRank, Replace
from retain.merge.tensors import Folder

STORED = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Job:
    """One output tensor. source: the base's tensor it starts from. changes: (ΔW, weight); empty: copied as bytes.

    strength: factor on all of its changes.
    """

    name: str
    source: str
    dtype: str
    shape: tuple[int, ...]
    changes: tuple[tuple[Delta, float], ...] = ()
    strength: float = 1.0


@dataclass(frozen=True)
class Plan:
    """files: output file → its tensors in order. settings: config.json of the result. notes: what a person should know."""

    files: dict[str, list[Job]]
    settings: dict[str, Any]
    notes: tuple[str, ...]


def make(config: MergeConfig, base: Folder, adapters: Sequence[tuple[Adapter, float]]) -> Plan:
    """The plan of a merge; ConfigError where the method does not fit the adapters."""
    settings = models.settings_of(base.path)
    if settings.get("quantization_config"):
        raise ConfigError("a quantised base cannot take a merge", where=str(base.path), fix="give the base in its original precision; an adapter trained on its NF4 form fits")  # fmt: skip
    if config.method == "slerp" and len(adapters) != 2:
        raise ConfigError("slerp takes exactly two adapters", got=len(adapters), fix="use linear, ties or dare")
    changes = _changes(adapters)
    notes = [
        *_quantised_notes(adapters),
        *(f"{name} of the base is no part of its model and was left out" for name in base.left_out),
    ]
    head_is_tied = HEAD not in base.place
    if head_is_tied and _untied(adapters, embedding_of(base)):
        changes.setdefault(HEAD, ())
        settings["tie_word_embeddings"] = False
        notes.append("the output head is written out: base and adapter treat it and the embedding differently")
    elif head_is_tied:
        changes.pop(HEAD, None)  # a whole model's second copy of its embedding
    layers = depth.stacks(base.place)
    files = {shard.path.name: [_job(config, base, name, name, changes, layers) for name in shard.specs] for shard in base.shards}  # fmt: skip
    if HEAD in changes and head_is_tied:
        place = base.place[embedding_of(base)].path.name
        files[place].append(_job(config, base, HEAD, embedding_of(base), changes, layers))
    _note_vocabulary(files, base, settings)
    if config.dtype != "base":
        settings["dtype"] = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[config.dtype]
        settings.pop("torch_dtype", None)
    return Plan(files, settings, tuple(notes))


def _changes(adapters: Sequence[tuple[Adapter, float]]) -> dict[str, tuple[tuple[Delta, float], ...]]:
    found: dict[str, tuple[tuple[Delta, float], ...]] = {}
    for adapter, weight in adapters:
        for name, delta in adapter.changes.items():
            found[name] = (*found.get(name, ()), (delta, weight))
    return found


def _quantised_notes(adapters: Sequence[tuple[Adapter, float]]) -> list[str]:
    def is_quantised(adapter: Adapter) -> bool:
        return "qlora" in str(adapter.training.get("method", "")) or bool(adapter.training.get("quantization"))

    names = [adapter.path.name for adapter, _ in adapters if is_quantised(adapter)]
    return [f"{name} was trained on the base in NF4 and is merged into its original precision" for name in names]


def _untied(adapters: Sequence[tuple[Adapter, float]], embedding: str) -> bool:
    """Whether training moved one end of a tied embedding without the other."""
    return any(adapter.kind == "weights" and _own_head(adapter, embedding) for adapter, _ in adapters) or any(
        isinstance(delta, LowRank | Dora) or _is_saved_module(adapter, name)
        for adapter, _ in adapters if adapter.kind == "peft" and not adapter.settings.get("ensure_weight_tying")
        for name, delta in adapter.changes.items() if name in {HEAD, embedding}
    )  # fmt: skip


def _own_head(adapter: Adapter, embedding: str) -> bool:
    """Whether a whole model has a head that is not its embedding once more."""
    head, words = (adapter.changes.get(name) for name in (HEAD, embedding))
    if not (isinstance(head, Replace) and isinstance(words, Replace)):
        return head is not None
    return not head.folder.tensor(head.name).equal(words.folder.tensor(words.name))


def _is_saved_module(adapter: Adapter, name: str) -> bool:
    return any(f".{name}".endswith(f".{module}.weight") for module in adapter.settings.get("modules_to_save") or [])


def _job(config: MergeConfig, base: Folder, name: str, source: str, changes: dict[str, Any], layers: dict[str, int]) -> Job:  # fmt: skip
    spec = base.spec(source)
    mine = changes.get(name, ())
    shapes = {d.folder.spec(d.name).shape for d, _ in mine if isinstance(d, Replace)} or {spec.shape}
    shape = max(shapes)
    if len(shapes) > 1 or (len(mine) > 1 and shape != spec.shape):
        raise ConfigError("new words of one model cannot be combined with another's", got=name, expected="one model that added words, merged alone", fix="merge that one first, then tune on the result")  # fmt: skip
    if mine and not spec.floating:
        raise ConfigError("a tensor that holds no floating-point numbers cannot be changed", got=f"{name} ({spec.dtype})")  # fmt: skip
    if shape[1:] != spec.shape[1:] or shape[:1] < spec.shape[:1]:
        raise IntegrityError("a trained tensor has another shape than the base's", got=f"{name} {shape}", expected=spec.shape)  # fmt: skip
    dtype = spec.dtype if config.dtype == "base" or not spec.floating else STORED[config.dtype]
    strength = config.strength * depth.factor(name, layers, config.first_layer)
    if not strength and shape == spec.shape:
        mine = ()  # nothing of the change is left here
    return Job(name, source, dtype, shape, mine, strength)


def _note_vocabulary(files: dict[str, list[Job]], base: Folder, settings: dict[str, Any]) -> None:
    longer = {job.shape[0] for jobs in files.values() for job in jobs if job.shape and job.shape[0] > base.spec(job.source).rows}  # fmt: skip
    if len(longer) > 1:
        raise ConfigError("the adapter gives its embeddings different numbers of rows", got=sorted(longer))
    if longer:
        place = settings.get("text_config", settings)
        place["vocab_size"] = longer.pop()


def model_settings(plan: Plan) -> bytes:
    return (json.dumps(plan.settings, indent=2, ensure_ascii=False) + "\n").encode()


def companions(base: Path, adapters: Sequence[Adapter]) -> list[Path]:
    """Generation settings, tokenizer and template beside the weights; an adapter's own where it added words."""
    from retain.digest import model_files

    skip = {"config.json"}
    files = {p.name: p for p in model_files(base) if p.parent == base and p.name not in skip and not p.name.endswith((".safetensors", ".index.json"))}  # fmt: skip
    for adapter in adapters:
        if (adapter.path / "tokenizer.json").is_file():
            own = [p for p in model_files(adapter.path) if p.name.startswith(("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template"))]  # fmt: skip
            files.update({p.name: p for p in own})
    return list(files.values())
