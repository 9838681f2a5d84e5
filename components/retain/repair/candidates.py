"""What is tried: one-parameter families of the same change, each told as settings of a merge."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain import digest, models
from retain.artifacts import read_json, write_json
from retain.errors import ConfigError
from retain.merge.config import MergeConfig
from retain.repair.config import Method, RepairConfig

ADAPTER = "retain.adapter/1"


@dataclass(frozen=True)
class Family:
    """One method: the merge that gives its members, but for the strength, and the adapter they are made of."""

    method: Method
    merge: MergeConfig
    adapter: Path
    adapter_digest: str

    def at(self, strength: float) -> MergeConfig:
        """The merge of the member at λ = ``strength``, a factor on the strength of what was gated."""
        return self.merge.model_copy(update={"strength": self.merge.strength * strength})

    def key(self, strength: float) -> dict[str, Any]:
        """What its scores depend on beside the model folder."""
        return {"repair": self.at(strength).as_parameter(), "adapter": self.adapter_digest}


def family(method: Method, config: RepairConfig, merge: MergeConfig, base: Path, adapter: Path, folder: Path) -> Family:
    """The family of one method; ConfigError where the adapter cannot be changed that way. ``folder`` takes a new adapter."""
    if method == "depth":
        merge = merge.model_copy(update={"first_layer": config.first_layer})
    if method == "intruders":
        adapter = without_intruders(config, base, adapter, folder)
    return Family(method, merge, adapter, content_of(adapter))


def content_of(adapter: Path) -> str:
    """Digest of an adapter's weight files, as the merge states it."""
    return digest.of_manifest({p.name: digest.of_file(p).removeprefix("sha256:") for p in sorted(adapter.glob("*.safetensors"))})  # fmt: skip


def without_intruders(config: RepairConfig, base: Path, adapter: Path, folder: Path) -> Path:
    """A copy of a LoRA with its intruder dimensions reduced, in ``folder``; one that is there already is taken.

    Singular directions of W + ΔW that no direction of W resembles carry most of the forgetting (Shuttleworth et al. 2024,
    arXiv 2410.21228, section 5). peft finds and weakens them and fits the rest into the adapter's own rank again.
    """
    _check_lora(adapter)
    asked = {"share": config.intruder_share, "cosine": config.intruder_cosine, "directions": config.intruder_directions, "of": content_of(adapter)}  # fmt: skip
    done = folder / "retain.json"
    if done.is_file() and read_json(done, schema=ADAPTER).get("intruders") == asked:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    _reduced(config, base, adapter, folder)
    trained = read_json(adapter / "retain.json", schema=ADAPTER) if (adapter / "retain.json").is_file() else {}
    write_json(done, {**trained, "schema": ADAPTER, "intruders": asked, "adapter_digest": content_of(folder)})
    return folder


def _check_lora(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    settings: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    odd = [name for name in ("use_dora", "modules_to_save", "trainable_token_indices", "lora_bias") if settings.get(name)]  # fmt: skip
    if settings.get("peft_type") != "LORA" or odd or settings.get("bias", "none") != "none":
        raise ConfigError("intruder dimensions are reduced in a plain LoRA only", where=str(adapter), got=", ".join(odd) or str(settings.get("peft_type", "changed weights")))  # fmt: skip


def _reduced(config: RepairConfig, base: Path, adapter: Path, folder: Path) -> None:
    from peft import PeftModel
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    model = models.load_model(base, dtype="fp32", device=models.pick_device())
    tuned = PeftModel.from_pretrained(model, str(adapter))
    name = "repaired"
    reduce_intruder_dimension(
        tuned, new_adapter_name=name, top_k=config.intruder_directions, threshold_epsilon=config.intruder_cosine,
        mitigation_lambda=config.intruder_share, logging_sink=None,
    )  # fmt: skip
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    tuned.save_pretrained(str(partial), selected_adapters=[name], safe_serialization=True)
    (partial / name).replace(folder)  # peft keeps every adapter but `default` in a folder of its own
    shutil.rmtree(partial)
