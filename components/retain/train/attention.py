"""Attention over packed rows: each row sees itself only, nothing is padded and no mask is built.

Registered with transformers under `PACKED` (one product a row, on any device) and `VARLEN` (all rows in one call of torch's
FlashAttention, on a GPU). Which of them is right for a model is tried out before the first step (retain.train.packing). The lengths of the rows travel through the model's forward as the keyword
``lengths`` (a list of ints that sum to the number of tokens), next to ``position_ids`` that start anew in each row.
"""

import inspect
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from retain.errors import ConfigError

if TYPE_CHECKING:
    import torch

PACKED, VARLEN = "retain_packed", "retain_packed_varlen"
SHORT = 512  # tokens
# Layers that know where a packed row begins; convolutions, state spaces, linear and chunked attention would run on into the next row.
PACKABLE = {"full_attention", "sliding_attention"}


def register() -> None:
    """Make both known to transformers; without a mask function of that name no mask is made."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)
    AttentionInterface.register(VARLEN, varlen_attention)


def kernels(model: Any) -> tuple[str, ...]:
    """What may compute packed rows here, the fastest first: FlashAttention takes 16-bit numbers on GPUs from Ampere on."""
    import torch

    parameter = next(model.parameters())
    if parameter.device.type != "cuda" or model.dtype == torch.float32 or not _has_varlen():
        return (PACKED,)
    return (VARLEN, PACKED) if torch.cuda.get_device_capability(parameter.device) >= (8, 0) else (PACKED,)


def _has_varlen() -> bool:
    """Young in torch: 2.10 had it without a scale of one's own, 2.9 not at all."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)


def can_pack(model: Any) -> bool:
    """Whether every layer that mixes tokens is attention through transformers' interface, full or sliding, without a soft cap of its own."""
    config = model.config.get_text_config()
    known = set(getattr(config, "layer_types", None) or ()) <= PACKABLE
    plain = not any(getattr(config, name, None) for name in ("attn_logit_softcapping", "alibi"))
    return (
        bool(getattr(model, "_supports_attention_backend", False)) and plain and known and not config.is_encoder_decoder
    )


def packed_attention(
    module: Any, query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor", attention_mask: Any,
    dropout: float = 0.0, scaling: float | None = None, sliding_window: int | None = None, lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple["torch.Tensor", None]:  # fmt: skip
    """query [1, H, T, D], key and value [1, H', T, D] → ([1, T, H, D], None): causal attention inside each row."""
    import torch

    if _foreign(lengths, attention_mask, kwargs):
        raise ConfigError(
            "this model's attention cannot work on packed rows",
            got=type(module).__name__,
            fix="set train.packing: padded",
        )
    rows = [
        _row(q, k, v, _band(q.shape[2], sliding_window, q.device), dropout, scaling)
        for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(rows, dim=2).transpose(1, 2), None


def varlen_attention(
    module: Any, query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor", attention_mask: Any,
    dropout: float = 0.0, scaling: float | None = None, sliding_window: int | None = None, lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple["torch.Tensor", None]:  # fmt: skip
    """The same in one call; what the kernel cannot do (dropout, odd widths of a head) goes row by row."""
    width = query.shape[-1]
    fits = not dropout and width % 8 == 0 and width <= 256 and value.shape[-1] == width
    if not fits or _foreign(lengths, attention_mask, kwargs):
        return packed_attention(module, query, key, value, attention_mask, dropout, scaling, sliding_window, lengths, **kwargs)  # fmt: skip
    from torch.nn.attention.varlen import varlen_attn

    rows = tuple(lengths or ())
    starts, longest = _starts(rows, query.device), max(rows)
    seen = (sliding_window - 1 if sliding_window else -1, 0)  # tokens to the left beside its own
    out = varlen_attn(
        *(x[0].transpose(0, 1) for x in (query, key, value)), starts, starts, longest, longest,
        scale=scaling, window_size=seen, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return out[None], None


def _foreign(lengths: list[int] | None, mask: Any, more: dict[str, Any]) -> bool:
    """Whether a model does more than attend to what is before it: a mask of its own (a sparse choice, say), a soft cap, sinks."""
    return lengths is None or mask is not None or bool(more.get("softcap")) or more.get("s_aux") is not None


@lru_cache(maxsize=4)
def _starts(lengths: tuple[int, ...], device: Any) -> "torch.Tensor":
    """[N + 1] where the rows begin and the last one ends; made once for all layers of a forward pass."""
    import torch

    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _row(query: Any, key: Any, value: Any, band: Any, dropout: float, scaling: float | None) -> "torch.Tensor":
    """One row: [1, H, T, D] → [1, H, T, D]. On a CPU plain products beat the fused kernel on short rows (three times, with the backward pass)."""
    import torch

    if query.device.type == "cpu" and query.shape[2] <= SHORT and not dropout:
        return _plain(query, key, value, band, scaling or query.shape[-1] ** -0.5)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=band, dropout_p=dropout, is_causal=band is None, scale=scaling, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip


def _plain(query: Any, key: Any, value: Any, band: Any, scaling: float) -> "torch.Tensor":
    """softmax(scaling · Q·Kᵀ + mask)·V with the query heads of one key head in one product."""
    import torch

    _, heads, length, width = query.shape
    shared = key.shape[1]
    groups = query.reshape(shared, heads // shared * length, width)
    scores = torch.bmm(groups, key[0].transpose(1, 2)).view(heads, length, length)
    seen = torch.ones(length, length, dtype=torch.bool, device=query.device).tril() if band is None else band
    hidden = torch.zeros_like(seen, dtype=scores.dtype).masked_fill_(~seen, float("-inf"))
    weights = torch.add(hidden, scores, alpha=scaling).softmax(dim=-1)
    return torch.bmm(weights.view(shared, -1, length), value[0]).view(1, heads, length, value.shape[-1])


def _band(length: int, window: int | None, device: Any) -> "torch.Tensor | None":
    """The mask of a sliding window where a row is longer than it; None where causality is all."""
    import torch

    if not window or length <= window:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril().triu(1 - window)
