"""What is tried: one-parameter families of the same change, each told as settings of a merge."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain.merge.adapters import content_of
from retain.merge.config import MergeConfig
from retain.repair.config import Method, RepairConfig
from retain.repair.intruders import without_intruders


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
