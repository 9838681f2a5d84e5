"""The proof that the merged files are base + adapter: an independent forward pass of peft's, a reload, counts of changes.

Both sides run on weights mapped from the disk, widened to fp32 only while they are used, so that the one difference left
is the rounding of the stored precision.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import models
from retain.errors import IntegrityError
from retain.merge import dense, depth
from retain.merge.adapters import Adapter
from retain.merge.config import MergeConfig
from retain.merge.stream import Moved

if TYPE_CHECKING:
    import torch

LAYERS_RECOMPUTED = 8
FP32_IS_FINER = 100  # a merge stored in fp32 must agree this many times better than one in 16 bits


def prove(
    config: MergeConfig,
    base_dir: Path,
    adapters: Sequence[tuple[Adapter, float]],
    model: Path,
    moved: Mapping[str, Moved],
) -> dict[str, Any]:
    """The content of proof.json; IntegrityError where the proof fails."""
    merged = _reloaded(model)
    logits = _logits(config, base_dir, adapters, merged)
    if not logits["rms_difference"] <= logits["allowed"]:  # a NaN must not pass
        raise IntegrityError(
            "the merged model is not base + adapter", where=str(model), got=f"logits differ by {logits['rms_difference']:.3g} of their spread (root mean square)",
            expected=f"at most {logits['allowed']:.3g}", fix="this is a fault of the merge or of a rare adapter: report it; raise merge.tolerance only if the stored precision explains it",
        )  # fmt: skip
    entries, lost = sum(m.entries for m in moved.values()), sum(m.lost for m in moved.values())
    return {
        "strength": config.strength, "first_layer": config.first_layer, "changed_tensors": sum(m.entries > m.lost for m in moved.values()), "lost_ratio": lost / max(entries, 1),
        "tensors": {name: {"entries": m.entries, "lost_ratio": m.lost / max(m.entries, 1)} for name, m in sorted(moved.items())},
        "finite": "every value written was checked", "reload": "every tensor was found by its name and shape", "logits": logits,
    }  # fmt: skip


def _load(folder: Path, **more: Any) -> Any:
    from safetensors import SafetensorError

    models.quiet()
    kind = models.kind_of(folder)
    try:
        return kind.from_pretrained(str(folder), dtype="auto", local_files_only=True, use_safetensors=True, **more)
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:
        said = " ".join(str(error).split())[:200]
        raise IntegrityError("transformers cannot load this model", where=str(folder), got=said, expected="weights of the shapes that config.json tells", fix="fetch the base again: its settings and weights do not fit together") from error  # fmt: skip


def _reloaded(folder: Path) -> Any:
    """The merged model as a server would load it; nothing may be missing, left over or of another shape."""
    model, info = _load(folder, output_loading_info=True)
    wrong = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if wrong:
        raise IntegrityError("the merged model does not load whole", where=str(folder), got=str(wrong)[:300], fix="compare the base's config.json with its weights; where they agree, report this")  # fmt: skip
    return model.eval()


def _logits(
    config: MergeConfig, base_dir: Path, adapters: Sequence[tuple[Adapter, float]], merged: Any
) -> dict[str, Any]:
    import torch

    probes = _probes(config, merged)
    result = _forward(merged, probes)
    finest = {p.dtype for p in merged.parameters() if p.is_floating_point()} <= {torch.float32}
    allowed = config.tolerance / (FP32_IS_FINER if finest else 1)
    shape = {"rows": config.probe_rows, "tokens": config.probe_tokens, "allowed": allowed}
    reference, said = _reference(config, base_dir, adapters, merged)
    if reference is None:
        if not torch.isfinite(result).all():
            raise IntegrityError("the merged model's logits are not finite", where=str(base_dir))
        return {**shape, "reference": said, "largest_difference": 0.0, "rms_difference": 0.0, "adapter_effect": 0.0, "layers_recomputed": 0}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of what its own merge would do to tied weights; none is done here
        attached, plain, layers = reference(config, base_dir, adapters, probes, merged)
    spread = float(attached.std())
    difference, effect = (result - attached) / spread, (attached[..., : plain.shape[-1]] - plain) / spread
    return {
        **shape, "reference": said, "largest_difference": float(difference.abs().max()),
        "rms_difference": _rms(difference), "adapter_effect": _rms(effect), "layers_recomputed": layers,
    }  # fmt: skip


def _reference(
    config: MergeConfig, base_dir: Path, adapters: Sequence[tuple[Adapter, float]], merged: Any
) -> tuple[Callable[..., Any] | None, str]:
    """(what computes the logits another way, what it is in words)."""
    if config.method == "linear" and all(_attachable(a, w * config.strength * config.first_layer) for a, w in adapters):
        return _attached, "peft, adapter attached to the base, fp32"
    if all(dense.able(a, base_dir) for a, _ in adapters):
        return _redone, "every changed tensor computed again on whole matrices (peft's ΔW, safetensors' reader, fp64)"
    return None, "none: these changes cannot be attached to a base"


def _redone(config: MergeConfig, base_dir: Path, adapters: Sequence[tuple[Adapter, float]], probes: "torch.Tensor", merged: Any) -> "tuple[torch.Tensor, torch.Tensor, int]":  # fmt: skip
    """As :func:`_attached`, for what peft cannot run attached; every changed tensor is compared, not some layers."""
    base = _load(base_dir).eval()
    plain = _forward(base, probes.clamp(max=base.get_input_embeddings().weight.shape[0] - 1))
    tensors = dense.redo(config, base, adapters, merged)
    return _forward(base, probes), plain, tensors


def _attachable(adapter: Adapter, weight: float) -> bool:
    """Whether peft can run it beside the base at this weight (a trained bias replaces the base's: all or nothing)."""
    return adapter.kind == "peft" and (weight == 1 or adapter.settings.get("bias", "none") == "none")


def _rms(values: "torch.Tensor") -> float:
    return float(values.square().mean().sqrt())


def _probes(config: MergeConfig, model: Any) -> "torch.Tensor":
    """Seeded token ids (rows, tokens) that base and merged model both know."""
    import torch

    generator = torch.Generator().manual_seed(config.seed)
    return torch.randint(0, model.get_input_embeddings().weight.shape[0] - 1, (config.probe_rows, config.probe_tokens), generator=generator)  # fmt: skip


def _forward(model: Any, probes: "torch.Tensor") -> "torch.Tensor":
    """fp32 logits (rows, tokens, vocabulary), one row at a time."""
    import torch

    more = {"decoder_input_ids": probes} if model.config.is_encoder_decoder else {}
    rows = []
    with torch.inference_mode(), widened():
        for i in range(probes.shape[0]):
            inputs = {name: ids[i : i + 1] for name, ids in more.items()}
            rows.append(model(input_ids=probes[i : i + 1], use_cache=False, **inputs).logits.float())
    return torch.cat(rows)


def widened() -> Any:
    """Within: every operation on 16-bit tensors is computed in fp32."""
    import torch
    from torch.overrides import TorchFunctionMode

    low = (torch.bfloat16, torch.float16)

    def wide(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype in low:
            return value.float()
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return type(value)(wide(v) for v in value)
        return value

    class Widened(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(function, "__name__", "") in {"__get__", "__set__", "size", "dim", "__repr__"}:
                return function(*args, **(kwargs or {}))
            with torch._C.DisableTorchFunction():
                values = [wide(a) for a in args]
                named = {k: wide(v) for k, v in (kwargs or {}).items()}
            return function(*values, **named)

    return Widened()


def _attached(config: MergeConfig, base_dir: Path, adapters: Sequence[tuple[Adapter, float]], probes: "torch.Tensor", merged: Any) -> "tuple[torch.Tensor, torch.Tensor, int]":  # fmt: skip
    """(logits of base + adapters, logits of the base alone, layers recomputed); each changed layer gives base + λ · Σ w · (adapted − base)."""
    base = _load(base_dir).eval()
    rows = merged.get_input_embeddings().weight.shape[0]
    known = base.get_input_embeddings().weight.shape[0]
    if rows > known:
        base.resize_token_embeddings(rows, mean_resizing=False)
    plain = _forward(base, probes.clamp(max=known - 1))
    names = [f"adapter{i}" for i in range(len(adapters))]
    model = dense.attached(base, dict(zip(names, (adapter for adapter, _ in adapters), strict=True)))
    weights = {name: weight * config.strength for name, (_, weight) in zip(names, adapters, strict=True)}
    share = _by_depth(config, model)
    layers = _recomputed(model, merged, weights, share)
    if weights != {names[0]: 1.0} or config.first_layer != 1:
        for name, module in _changed_layers(model):
            _blend(module, {adapter: weight * share(name) for adapter, weight in weights.items()})
    return _forward(model.eval(), probes), plain, layers


def _by_depth(config: MergeConfig, model: Any) -> Callable[[str], float]:
    """Module's name → factor on its strength."""
    layers = depth.stacks(f"{name}." for name, _ in model.get_base_model().named_modules())
    return lambda name: depth.factor(name, layers, config.first_layer)


def _recomputed(model: Any, merged: Any, weights: Mapping[str, float], share: Callable[[str], float]) -> int:
    """Layers whose stored weights are, to the last bit or its neighbour, the rounded sum with peft's own ΔW.

    A wrong scale shows here even where the adapter is too weak to show in the logits. Layers evenly over the depth.
    """
    from peft.tuners.lora import Linear

    layers = [(name, m) for name, m in model.get_base_model().named_modules() if type(m) is Linear and not m.use_dora.get(next(iter(weights)), False)]  # fmt: skip
    checked = layers[:: max(1, len(layers) // LAYERS_RECOMPUTED)][:LAYERS_RECOMPUTED]
    for name, layer in checked:
        stored = merged.get_submodule(name).weight
        exact = layer.get_base_layer().weight.float()
        for adapter, weight in weights.items():
            if adapter in layer.lora_A:
                exact = exact + weight * share(name) * layer.get_delta_weight(adapter).float()
        dense.check_rounded(name, stored, exact)
    return len(checked)


def _changed_layers(model: Any) -> list[tuple[str, Any]]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    kinds = BaseTunerLayer | AuxiliaryTrainingWrapper
    return [(name, m) for name, m in model.get_base_model().named_modules() if isinstance(m, kinds)]


def _blend(module: Any, weights: Mapping[str, float]) -> None:
    """A layer's output is linear in its weights, so weighted outputs are the outputs of weighted weights."""
    whole = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        module.enable_adapters(False)
        plain = whole(*args, **kwargs)
        total = plain
        module.enable_adapters(True)
        for name, weight in weights.items():
            if name in _adapters_of(module):
                module.set_adapter(name)
                total = total + weight * (whole(*args, **kwargs) - plain)
        return total

    module.forward = forward


def _adapters_of(module: Any) -> set[str]:
    parts = (
        "lora_A",
        "lora_embedding_A",
        "modules_to_save",
        "trainable_tokens_delta",
        "ia3_l",
        "oft_R",
        "osf_svd_params",
    )
    return {name for part in parts for name in getattr(module, part, {})}
