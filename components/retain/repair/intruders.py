"""Intruder dimensions: leading singular directions of the tuned weights that no direction of the base resembles.

They carry most of the forgetting (Shuttleworth et al. 2024, arXiv 2410.21228, section 5): weakened, they give it back. In a
plain LoRA peft finds and weakens them and fits the rest into the adapter's own rank again; in changed weights the same is
done here, layer by layer, and nothing has to be fitted.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import models
from retain.artifacts import read_json, write_json
from retain.errors import ConfigError
from retain.merge import adapters, depth
from retain.merge.deltas import Replace
from retain.merge.tensors import Folder, Output, Spec, torch_type
from retain.progress import Progress
from retain.repair.config import RepairConfig

if TYPE_CHECKING:
    import torch

ADAPTER = "retain.adapter/1"


def without_intruders(config: RepairConfig, base: Path, adapter: Path, folder: Path) -> Path:
    """A copy of a LoRA or of changed weights with its intruder dimensions reduced, in ``folder``; one that is there already is taken.

    ConfigError for any other kind of adapter.
    """
    low_rank = (adapter / "adapter_config.json").is_file()
    if low_rank:
        _check_lora(adapter)
    asked = {"share": config.intruder_share, "cosine": config.intruder_cosine, "directions": config.intruder_directions, "of": adapters.content_of(adapter)}  # fmt: skip
    done = folder / "retain.json"
    if done.is_file() and read_json(done, schema=ADAPTER).get("intruders") == asked:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (_of_lora if low_rank else _of_weights)(config, base, adapter, folder)
    trained = read_json(adapter / "retain.json", schema=ADAPTER) if (adapter / "retain.json").is_file() else {}
    write_json(done, {**trained, "schema": ADAPTER, "intruders": asked, "adapter_digest": adapters.content_of(folder)})
    return folder


def _check_lora(adapter: Path) -> None:
    settings: Mapping[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    odd = [name for name in ("use_dora", "modules_to_save", "trainable_token_indices", "lora_bias") if settings.get(name)]  # fmt: skip
    if settings.get("peft_type") != "LORA" or odd or settings.get("bias", "none") != "none":
        raise ConfigError("intruder dimensions are reduced in a plain LoRA or in changed weights", where=str(adapter), got=", ".join(odd) or str(settings.get("peft_type")))  # fmt: skip


def _of_lora(config: RepairConfig, base: Path, adapter: Path, folder: Path) -> None:
    from peft import PeftModel
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    model = models.load_model(base, dtype="fp32", device=models.pick_device())
    tuned = PeftModel.from_pretrained(model, str(adapter))
    name = "repaired"
    reduce_intruder_dimension(
        tuned, new_adapter_name=name, top_k=config.intruder_directions, threshold_epsilon=config.intruder_cosine,
        mitigation_lambda=config.intruder_share, logging_sink=None,
    )  # fmt: skip
    partial = _partial(folder)
    tuned.save_pretrained(str(partial), selected_adapters=[name], safe_serialization=True)
    (partial / name).replace(folder)  # peft keeps every adapter but `default` in a folder of its own
    shutil.rmtree(partial)


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{os.getpid()}.partial")


def _of_weights(config: RepairConfig, base: Path, adapter: Path, folder: Path) -> None:
    """One tensor in memory at a time; what is no matrix of a layer, and what has no intruder, keeps its bytes.

    ConfigError where there is none at all, as the paper finds for full fine-tuning: the strengths alone would be tried twice.
    """
    partial, known = _partial(folder), Folder(base)
    shutil.copytree(adapter, partial, ignore=shutil.ignore_patterns("*.safetensors", "retain.json"))
    change = adapters.read(adapter, known)
    of_base = {delta.name: name for name, delta in change.changes.items() if isinstance(delta, Replace)}
    weights, intruded = Folder(adapter), 0
    try:
        with Progress("intruders", total=len(weights.place), unit="tensors") as progress:
            for shard in weights.shards:
                out = Output(partial / shard.path.name, [(s.name, s.dtype, s.shape) for s in shard.specs.values()], shard.metadata)  # fmt: skip
                for spec in shard.specs.values():
                    less = _reduced(config, weights, spec, known, of_base[spec.name])
                    intruded += less is not None
                    out.write(spec.name, 0, _stored(weights, spec) if less is None else less)
                    progress.advance(note=f"{intruded} with intruders")
                out.close()
    finally:
        known.close()
        weights.close()
    if not intruded:
        shutil.rmtree(partial)
        raise ConfigError("no direction of this change intrudes", where=str(adapter), got=f"none of the leading {config.intruder_directions} in {len(of_base)} tensors below cosine {config.intruder_cosine:g}")  # fmt: skip
    partial.replace(folder)


def _stored(weights: Folder, spec: Spec) -> "torch.Tensor":
    import torch

    return weights.read(spec.name, 0, spec.rows, torch.empty(max(spec.bytes, 1), dtype=torch.uint8))


def _reduced(config: RepairConfig, weights: Folder, spec: Spec, base: Folder, name: str) -> "torch.Tensor | None":
    """The tensor as it is to be stored; None where nothing in it intrudes."""
    if len(spec.shape) == 2 and depth.LAYER.match(name) and name in base.place and base.spec(name).shape == spec.shape:
        device = models.pick_device()
        left, right = (folder.tensor(key).to(device) for folder, key in ((base, name), (weights, spec.name)))
        less = weakened(left, right, share=config.intruder_share, cosine=config.intruder_cosine, directions=config.intruder_directions)  # fmt: skip
        if less is not None:
            return less.to(torch_type(spec.dtype)).cpu().contiguous()
    return None


def weakened(base: "torch.Tensor", tuned: "torch.Tensor", *, share: float, cosine: float, directions: int) -> "torch.Tensor | None":  # fmt: skip
    """``tuned`` (out, in) with ``share`` of each intruder left; None where it has none. Both in fp32."""
    import torch

    known = torch.linalg.svd(base, full_matrices=False).U
    u, s, v = torch.linalg.svd(tuned, full_matrices=False)
    alike = (u[:, :directions].T @ known).abs().amax(dim=1)
    found = torch.nonzero(alike < cosine).flatten()
    if not len(found):
        return None
    return tuned + (share - 1) * (u[:, found] * s[found]) @ v[found]
