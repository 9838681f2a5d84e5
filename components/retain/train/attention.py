"""Attention over packed rows: each row sees itself only, nothing is padded and no mask is built.

Registered with transformers under `PACKED`. The lengths of the rows travel through the model's forward as the keyword
``lengths`` (a list of ints that sum to the number of tokens), next to ``position_ids`` that start anew in each row.
"""

from typing import TYPE_CHECKING, Any

from retain.errors import ConfigError

if TYPE_CHECKING:
    import torch

PACKED = "retain_packed"


def register() -> None:
    """Make `PACKED` known to transformers; without a mask function of that name no mask is made."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)


def can_pack(model: Any) -> bool:
    """Whether every attention layer of this model goes through transformers' attention interface and has no own soft cap."""
    config = model.config.get_text_config()
    plain = not any(getattr(config, name, None) for name in ("attn_logit_softcapping", "alibi"))
    return bool(getattr(model, "_supports_attention_backend", False)) and plain and not config.is_encoder_decoder


def packed_attention(
    module: Any, query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor", attention_mask: Any,
    dropout: float = 0.0, scaling: float | None = None, sliding_window: int | None = None, lengths: list[int] | None = None,
    **kwargs: Any,
) -> tuple["torch.Tensor", None]:  # fmt: skip
    """query [1, H, T, D], key and value [1, H', T, D] → ([1, T, H, D], None): causal attention inside each row."""
    import torch

    if lengths is None or kwargs.get("softcap") or kwargs.get("s_aux") is not None:
        raise ConfigError(
            "this model's attention cannot work on packed rows",
            got=type(module).__name__,
            fix="set train.packing: padded",
        )
    grouped = query.shape[1] != key.shape[1]
    rows = []
    for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True):
        band = _band(q.shape[2], sliding_window, q.device)
        rows.append(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=band, dropout_p=dropout, is_causal=band is None, scale=scaling, enable_gqa=grouped
            )
        )
    return torch.cat(rows, dim=2).transpose(1, 2), None


def _band(length: int, window: int | None, device: Any) -> "torch.Tensor | None":
    """The mask of a sliding window where a row is longer than it; None where causality is all."""
    import torch

    if not window or length <= window:
        return None
    ones = torch.ones(length, length, dtype=torch.bool, device=device)
    return ones.tril().triu(1 - window)
