"""The reference for TIES, DARE and SLERP: peft's own ΔW of each layer, combined on whole matrices in memory."""

from collections.abc import Sequence
from typing import Any

from retain.merge.adapters import Adapter
from retain.merge.combine import METHODS
from retain.merge.config import MergeConfig
from retain.merge.deltas import LowRank


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
