"""Bottleneck adapters: after a sublayer, x + up(act(down(x))), with up at zero, so that the start is the base.

Houlsby et al. 2019 (arXiv 1902.00751) put one after attention and one after the MLP, Pfeiffer et al. 2020 (2005.00247)
one after the MLP. peft has none; saved and loaded like its adapters (adapter_model.safetensors, adapter_config.json).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from retain import artifacts
from retain.train import targets
from retain.train.method_config import BottleneckConfig

MARK = "_bottlenecks"
ACTIVATIONS = {"relu": torch.nn.functional.relu, "gelu": torch.nn.functional.gelu, "silu": torch.nn.functional.silu}


class Bottleneck(torch.nn.Module):
    """The last linear layer of a sublayer, and the adapter on its output."""

    def __init__(self, base_layer: torch.nn.Module, width: int, knobs: BottleneckConfig, like: torch.Tensor) -> None:
        super().__init__()
        self.base_layer, self.activation, self.on = base_layer, ACTIVATIONS[knobs.activation], True
        self.down = torch.nn.Linear(width, knobs.size, dtype=like.dtype, device=like.device)
        self.up = torch.nn.Linear(knobs.size, width, dtype=like.dtype, device=like.device)
        torch.nn.init.zeros_(self.up.weight)
        torch.nn.init.zeros_(self.up.bias)

    @property
    def weight(self) -> torch.Tensor:
        """T5 looks at its layers' weights to choose a precision."""
        weight: torch.Tensor = self.base_layer.weight
        return weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base_layer(x)
        return out + self.up(self.activation(self.down(out))) if self.on else out


def insert(model: Any, knobs: BottleneckConfig) -> Any:
    """Freeze ``model`` and put the adapters in; `MARK` on it holds them by the name of the layer they sit on."""
    model.requires_grad_(False)
    known = targets.sites(model)
    chosen = targets.outputs_of_mlp(known)
    if knobs.placement == "houlsby":
        chosen = [*targets.outputs_of_attention(known), *chosen]
    found = {}
    for site in chosen:
        parent, _, leaf = site.name.rpartition(".")
        layer = getattr(model.get_submodule(parent), leaf)
        width = layer.nf if type(layer).__name__ == "Conv1D" else layer.out_features
        found[site.name] = Bottleneck(layer, width, knobs, layer.weight)
        setattr(model.get_submodule(parent), leaf, found[site.name])
    object.__setattr__(model, MARK, found)
    object.__setattr__(model, "disable_adapter", lambda: _off(found))
    return model


@contextmanager
def _off(found: dict[str, Bottleneck]) -> Iterator[None]:
    for module in found.values():
        module.on = False
    try:
        yield
    finally:
        for module in found.values():
            module.on = True


def save(folder: Path, knobs: BottleneckConfig, weights: dict[str, torch.Tensor]) -> None:
    """``weights``: parameter name in the model → tensor (the fp32 masters)."""
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    artifacts.write_json(folder / "adapter_config.json", {"peft_type": "BOTTLENECK", **knobs.model_dump()})


def load(model: Any, folder: Path) -> Any:
    """A base with the adapters of ``folder`` put in."""
    from safetensors.torch import load_file

    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    settings.pop("peft_type")
    model = insert(model, BottleneckConfig(**settings))
    weights = load_file(folder / "adapter_model.safetensors")
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)
    return model.eval()
