"""References on whole matrices in memory: peft's own ΔW of each layer for TIES, DARE and SLERP; whole models interpolated."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain.errors import IntegrityError
from retain.merge import depth
from retain.merge.adapters import Adapter
from retain.merge.combine import METHODS
from retain.merge.config import MergeConfig
from retain.merge.deltas import LowRank, Replace
from retain.merge.tensors import Folder

if TYPE_CHECKING:
    import torch


def able(adapter: Adapter, weight: float) -> bool:
    """Whether peft states this adapter's whole change layer by layer: LoRA on matrices, nothing else."""
    return adapter.kind == "peft" and all(isinstance(delta, LowRank) for delta in adapter.changes.values()) and not any(name.endswith(EMBEDDINGS) for name in adapter.changes)  # fmt: skip


EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "shared.weight", "lm_head.weight")


def put_into(config: MergeConfig, base: Any, adapters: Sequence[tuple[Adapter, float]]) -> int:
    """Change the matrices of the loaded ``base`` in place, kept in fp32; how many layers (memory beside: one matrix a model)."""
    from peft import PeftModel
    from peft.tuners.lora import Linear

    names = [f"adapter{i}" for i in range(len(adapters))]
    model = PeftModel.from_pretrained(base, str(adapters[0][0].path), adapter_name=names[0])
    for name, (adapter, _) in list(zip(names, adapters, strict=True))[1:]:
        model.load_adapter(str(adapter.path), adapter_name=name)
    layers = [(path, module) for path, module in base.named_modules() if isinstance(module, Linear)]
    known = {name for adapter, _ in adapters for name in adapter.changes}
    weights = dict(zip(names, (weight for _, weight in adapters), strict=True))
    for path, layer in layers:
        key = next(name for name in known if f".{path}.weight".endswith(f".{name}") or f".{name}".endswith(f".{path}.weight"))  # fmt: skip
        _change(config, layer, weights, f"{config.seed}:{key}")
    model.base_model.disable_adapter_layers()
    return len(layers)


def _change(config: MergeConfig, layer: Any, weights: dict[str, float], key: str) -> None:
    mine = [name for name in weights if name in layer.lora_A]
    changes = [layer.get_delta_weight(name).float() for name in mine]
    factors = [weights[name] for name in mine]
    alone = config.method == "slerp" and len(changes) == 1  # the other adapter leaves this layer alone
    total = changes[0] * factors[0] if alone else METHODS[config.method](changes, factors, config.density, key)
    matrix = layer.get_base_layer().weight
    matrix.requires_grad_(False)
    matrix.data = matrix.data.float() + config.strength * total


def replaces(adapter: Adapter, base_dir: Path, merged: Any) -> bool:
    """Whether ``adapter`` is a whole model (or a part of one) whose tensors stand one for one in base and merged model."""
    base, names = Folder(base_dir), {name for name, _ in merged.named_parameters(remove_duplicate=False)}
    try:
        return adapter.kind == "weights" and all(
            name in names and isinstance(delta, Replace) and base.spec(name).shape == delta.folder.spec(delta.name).shape
            for name, delta in adapter.changes.items()
        )  # fmt: skip
    finally:
        base.close()


def interpolate(config: MergeConfig, base: Any, adapters: Sequence[tuple[Adapter, float]], merged: Any) -> int:
    """Every changed tensor of the loaded ``base`` becomes W + strength · Σ weight · (new − W), rounded as the merged one.

    Read by safetensors' own reader. IntegrityError where the merged tensor is another; else how many there are.
    """
    mine, stored = (dict(model.named_parameters(remove_duplicate=False)) for model in (base, merged))
    layers = depth.stacks(mine)
    changed = sorted({name for adapter, _ in adapters for name in adapter.changes})
    for name in changed:
        start = mine[name].detach().float()
        total = sum(weight * (_tensor(adapter, name).float() - start) for adapter, weight in adapters if name in adapter.changes)  # fmt: skip
        exact = start + config.strength * depth.factor(name, layers, config.first_layer) * total
        check_rounded(name, stored[name].detach(), exact)
        mine[name].requires_grad_(False)
        mine[name].data = exact.to(stored[name].dtype)
    return len(changed)


def _tensor(adapter: Adapter, name: str) -> "torch.Tensor":
    from safetensors import safe_open

    own = adapter.changes[name].name  # type: ignore[attr-defined]  # a Replace: replaces() has looked
    for file in sorted(adapter.path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if own in tensors.keys():  # noqa: SIM118 a safe_open is no mapping
                found: torch.Tensor = tensors.get_tensor(own)
                return found
    raise AssertionError("unreachable: the adapter's own reader found it")


def check_rounded(name: str, stored: "torch.Tensor", exact: "torch.Tensor") -> None:
    """IntegrityError unless ``stored`` is ``exact`` (fp32) to the last bit or its neighbour."""
    import torch

    error = (stored.float() - exact).abs()
    step = exact.abs().clamp(min=1e-6) * torch.finfo(stored.dtype).eps
    if bool((error > step + 1e-6).any()):
        raise IntegrityError("a merged layer is not base + adapter", where=name, got=f"off by {float(error.max()):.3g}", expected="the rounded sum", fix="report this: a fault of the merge")  # fmt: skip
