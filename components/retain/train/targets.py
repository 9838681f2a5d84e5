"""Which linear layers an adapter goes on: presets that work on any depth, on split and on fused projections.

A linear layer inside one of the model's numbered blocks is *attention* where a module above it is named so, else *mlp*.
"""

import re
from dataclasses import dataclass
from typing import Any

from retain.config import nearest
from retain.errors import ConfigError

QUERY_VALUE = {"q_proj", "v_proj", "query", "value", "q", "v", "c_attn", "qkv_proj", "query_key_value", "Wqkv"}
KEY_VALUE = {"k_proj", "v_proj", "key", "value", "k", "v", "c_attn", "qkv_proj", "query_key_value", "Wqkv"}
PRESETS = ("mlp-only", "all-linear", "attention-only", "attention-qv", "decoder-attention")


@dataclass(frozen=True)
class Site:
    """A linear layer: full name, number of its block, part of the block."""

    name: str
    layer: int
    role: str  # attention | mlp

    @property
    def leaf(self) -> str:
        return self.name.rsplit(".", 1)[-1]


def sites(model: Any) -> list[Site]:
    """Every linear layer (also GPT-2's transposed ``Conv1D``) inside a numbered block."""
    found = []
    for name, module in model.named_modules():
        number = block_number(name)
        if _is_linear(module) and number is not None:
            role = "attention" if re.search(r"att(n|ention)", name, re.IGNORECASE) else "mlp"
            found.append(Site(name, number, role))
    return found


def block_number(name: str) -> int | None:
    """Number of the block a module or weight lies in; None outside the blocks."""
    found = re.search(r"\.(\d+)\.", name)
    return int(found[1]) if found else None


def _outputs(known: list[Site], role: str) -> list[Site]:
    """The last linear layer of every sublayer of ``role``: attention layers are told apart by their parent, an MLP by its block."""
    last: dict[str, Site] = {}
    for site in known:
        if site.role == role:
            last[
                site.name.rpartition(".")[0]
                if role == "attention"
                else re.split(r"(?<=\.)\d+\.", site.name)[0] + str(site.layer)
            ] = site
    return list(last.values())


def outputs_of_attention(known: list[Site]) -> list[Site]:
    return _outputs(known, "attention")


def outputs_of_mlp(known: list[Site]) -> list[Site]:
    return _outputs(known, "mlp")


def matching(model: Any, names: list[str]) -> list[Site]:
    """The layers that peft would take for these names."""
    return [site for site in sites(model) if any(site.name == name or site.name.endswith("." + name) for name in names)]


def _is_linear(module: Any) -> bool:
    import torch

    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def choose(model: Any, target: str | list[str]) -> list[str]:
    """Module names for peft: suffixes where they say exactly what is meant, else full names."""
    known = sites(model)
    if isinstance(target, list) or target not in PRESETS:
        return _named(known, [target] if isinstance(target, str) else target)
    chosen = [site for site in known if _in_preset(site, target)]
    if not chosen:
        raise ConfigError(
            "no layer of this model fits the preset",
            where="train.lora.target_modules",
            got=target,
            expected=", ".join(leaves(known)),
            fix="name the modules yourself",
        )
    return shortest(known, chosen)


def _in_preset(site: Site, preset: str) -> bool:
    if preset == "attention-qv":
        return site.role == "attention" and site.leaf in QUERY_VALUE
    if preset == "decoder-attention":
        return site.role == "attention" and "encoder.block" not in site.name and "encoder.layers" not in site.name
    return preset == "all-linear" or site.role == preset.removesuffix("-only")


def _named(known: list[Site], names: list[str]) -> list[str]:
    for name in names:
        if not any(site.name == name or site.name.endswith("." + name) for site in known):
            near = nearest(name, [*leaves(known), *PRESETS])
            raise ConfigError(
                "a target module matches nothing in this model", where="train.lora.target_modules", got=name,
                expected=", ".join([*leaves(known), *PRESETS]), fix=f"did you mean '{near}'?" if near else "",
            )  # fmt: skip
    return names


def head_name(model: Any) -> str:
    """Name of the output layer."""
    head = model.get_output_embeddings()
    return next(name for name, module in model.named_modules() if module is head)


def leaves(known: list[Site]) -> list[str]:
    return sorted({site.leaf for site in known})


def shortest(known: list[Site], chosen: list[Site]) -> list[str]:
    """The last parts of the names if they match the chosen layers and no others, else the full names."""
    last = {site.leaf for site in chosen}
    if len([site for site in known if site.leaf in last]) == len(chosen):
        return sorted(last)
    return [site.name for site in chosen]
