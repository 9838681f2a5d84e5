"""A merge done again on whole matrices in memory, by another route: peft's own ΔW of each layer, safetensors' own reader."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain.errors import IntegrityError
from retain.merge import again, depth
from retain.merge.adapters import Adapter, embedding_of
from retain.merge.config import MergeConfig
from retain.merge.deltas import Delta, LowRank, Replace
from retain.merge.tensors import Folder

if TYPE_CHECKING:
    import torch

BLOCK_ENTRIES = 1 << 22
# Beside the rounding: the angle of slerp in fp32, as a share of the change.
SLACK = {"slerp": 1e-4}
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "shared.weight", "lm_head.weight")


def able(adapter: Adapter, base_dir: Path) -> bool:
    """Whether another library states this adapter's whole change: peft that of a LoRA on matrices, any reader that of a
    whole model (or a part of one), where new words are its only new rows."""
    if adapter.kind == "peft":
        return all(isinstance(delta, LowRank) for delta in adapter.changes.values()) and not any(name.endswith(EMBEDDINGS) for name in adapter.changes)  # fmt: skip
    base = Folder(base_dir)
    try:
        return all(_in_place(name, delta, base) for name, delta in adapter.changes.items())
    finally:
        base.close()


def _in_place(name: str, delta: Delta, base: Folder) -> bool:
    source = name if name in base.place else embedding_of(base)
    return bool(source) and isinstance(delta, Replace) and base.spec(source).shape[1:] == delta.folder.spec(delta.name).shape[1:]  # fmt: skip


def redo(config: MergeConfig, base: Any, adapters: Sequence[tuple[Adapter, float]], merged: Any) -> int:
    """Every changed tensor of the loaded ``base`` becomes what the merge should be; how many there are.

    Memory beside both models: one matrix a model that is merged. What whole models change is rounded as the merged tensor;
    what adapters change stays in fp32, so that the logits show the rounding. IntegrityError where a merged tensor is another.
    """
    known = {name: p.shape for name, p in base.named_parameters(remove_duplicate=False)}
    _untie(base, merged)
    mine, stored = (dict(model.named_parameters(remove_duplicate=False)) for model in (base, merged))
    layers, stated = depth.stacks(mine), _stated(base, adapters)
    changed = {
        id(mine[_place(name, mine)]): name for adapter, _ in adapters for name in adapter.changes
    }  # a tied pair once
    for name in changed.values():
        place = _place(name, mine)
        parts = [(adapter.changes[name], weight, i) for i, (adapter, weight) in enumerate(adapters) if name in adapter.changes]  # fmt: skip
        start = _rows(mine[place].detach(), known[place]).float()
        changes = [_change(delta, start, stated, place, i) for delta, _, i in parts]
        block = again.combined(config.method, changes, [weight for _, weight, _ in parts], config.density, f"{config.seed}:{name}")  # fmt: skip
        strength = config.strength * depth.factor(place, layers, config.first_layer)
        whole = all(isinstance(delta, Replace) for delta, _, _ in parts)
        exact = _exact(config, name, start, block, strength, _rows(stored[place].detach(), known[place]), whole)
        mine[place].requires_grad_(False)
        mine[place].data = _with_new_rows(name, exact, parts[0][0], stored[place].detach())
    return len(changed)


def _rows(tensor: "torch.Tensor", shape: tuple[int, ...]) -> "torch.Tensor":
    """The rows that the base has, without those of new words."""
    return tensor[: shape[0]] if shape else tensor


def _with_new_rows(name: str, exact: "torch.Tensor", delta: Delta, stored: "torch.Tensor") -> "torch.Tensor":
    """New words are taken over as they are, whatever the strength."""
    import torch

    if exact.shape == stored.shape or not isinstance(delta, Replace):
        return exact
    new = _tensor(delta)[exact.shape[0] :].to(stored.dtype)
    if not new.equal(stored[exact.shape[0] :]):
        raise IntegrityError("the rows of new words are not the trained ones", where=name, fix="report this: a fault of the merge")  # fmt: skip
    return torch.cat([exact, new])


def _untie(base: Any, merged: Any) -> None:
    """Give ``base`` the head of its own and the new rows that the merged model has."""
    import torch

    rows = merged.get_input_embeddings().weight.shape[0]
    if rows > base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(rows, mean_resizing=False)
    head, theirs = base.get_output_embeddings(), merged.get_output_embeddings()
    if head.weight is base.get_input_embeddings().weight and theirs.weight is not merged.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


def _place(name: str, known: Mapping[str, Any]) -> str:
    """The parameter of a stored tensor: files may leave the model's own prefix out."""
    return name if name in known else next(other for other in known if other.endswith(f".{name}"))


def _stated(base: Any, adapters: Sequence[tuple[Adapter, float]]) -> dict[str, Any]:
    """Parameter → the layer in which peft knows its changes, by ``adapter<number>``; no adapter acts on ``base``."""
    numbers = [i for i, (adapter, _) in enumerate(adapters) if adapter.kind == "peft"]
    if not numbers:
        return {}
    from peft.tuners.lora import Linear

    model = attached(base, {f"adapter{i}": adapters[i][0] for i in numbers})
    model.base_model.disable_adapter_layers()
    return {f"{path}.weight": module for path, module in base.named_modules() if isinstance(module, Linear)}


def attached(base: Any, adapters: Mapping[str, Adapter]) -> Any:
    """``base`` with adapters of peft beside it, by name; IntegrityError where peft does not take one."""
    from peft import PeftModel

    model = None
    for name, adapter in adapters.items():
        try:
            if model is None:
                model = PeftModel.from_pretrained(base, str(adapter.path), adapter_name=name)
            else:
                model.load_adapter(str(adapter.path), adapter_name=name)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise IntegrityError("peft does not take this adapter", where=str(adapter.path), got=" ".join(str(error).split())[:300], fix="train or copy it again") from error  # fmt: skip
    return model


def _change(delta: Delta, start: "torch.Tensor", stated: Mapping[str, Any], place: str, number: int) -> "torch.Tensor":
    """ΔW of the base's rows, flat, in fp32."""
    if not isinstance(delta, Replace):
        found: torch.Tensor = stated[place].get_delta_weight(f"adapter{number}").float().flatten()
        return found
    return (_rows(_tensor(delta), tuple(start.shape)).float() - start).flatten()


def _tensor(delta: Replace) -> "torch.Tensor":
    from safetensors import safe_open

    with safe_open(delta.folder.place[delta.name].path, framework="pt") as tensors:
        found: torch.Tensor = tensors.get_tensor(delta.name)
        return found


def _exact(config: MergeConfig, name: str, start: "torch.Tensor", block: again.Block, strength: float, stored: "torch.Tensor", whole: bool) -> "torch.Tensor":  # fmt: skip
    """W + strength · combination, compared with what is stored; of TIES on adapters only in the logits: where two ways to
    compute ΔW differ in the last bit, another entry may stand at the limit."""
    import torch

    exact = torch.empty_like(stored, dtype=stored.dtype if whole else torch.float32)
    flat, before, there = exact.view(-1), start.reshape(-1), stored.reshape(-1)
    for first in range(0, flat.numel(), BLOCK_ENTRIES):
        part = slice(first, first + BLOCK_ENTRIES)
        total, doubt = block(part)
        value = before[part].double() + strength * total
        value = value if doubt is None else there[part].double().where(doubt, value)
        if whole or config.method != "ties":
            check_rounded(name, there[part], value, slack=SLACK.get(config.method, 0.0) * abs(strength) * total.abs())
        flat[part] = value.to(exact.dtype)
    return exact


def check_rounded(name: str, stored: "torch.Tensor", exact: "torch.Tensor", *, slack: "torch.Tensor | float" = 0.0) -> None:  # fmt: skip
    """IntegrityError unless ``stored`` is ``exact`` to the last bit or its neighbour (and ``slack``)."""
    import torch

    error = (stored.to(exact.dtype) - exact).abs()
    step = exact.abs().clamp(min=1e-6) * torch.finfo(stored.dtype).eps
    if not bool((error <= step + 1e-6 + slack).all()):
        raise IntegrityError("a merged layer is not base + adapter", where=name, got=f"off by {float(error.max()):.3g}", expected="the rounded sum", fix="report this: a fault of the merge")  # fmt: skip
