"""Attention under a token tree's mask on a CPU: query heads that share their keys are multiplied together, in plain matrix products.

torch's fused kernel for CPUs cuts such short rows into blocks of 32 queries; whole products are two to five times as fast in
bf16 (measured, rows of 40 to 165 tokens). Softmax in fp32. What has no mask, or a model that brings its own attention,
goes its usual way.
"""

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "retain_grouped"
# In fp32 the fused kernel is the faster one from this many keys on.
FP32_KEYS = 256


def use(model: Any) -> None:
    """Let a model on a CPU that would take torch's fused kernel take this one."""
    if model.device.type == "cpu" and model.config.get_text_config()._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, grouped)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def grouped(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: torch.Tensor | None, *,
    scaling: float | None = None, **settings: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """As transformers' ``sdpa_attention_forward``: query [B, H, n, d]; key, value [B, H / groups, T, d]; mask additive [B, 1, n, T]."""
    if attention_mask is None or attention_mask.shape[1] != 1 or attention_mask.dtype != query.dtype or settings.get("position_bias") is not None:  # fmt: skip
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **settings)
    rows, heads, n, size = query.shape
    groups = heads // key.shape[1]
    wide = query.reshape(rows, heads // groups, groups * n, size)
    scale = size**-0.5 if scaling is None else scaling
    if query.dtype == torch.float32 and key.shape[2] > FP32_KEYS:
        mask = attention_mask.expand(rows, groups, n, -1).reshape(rows, 1, groups * n, -1)
        out = scaled_dot_product_attention(wide, key, value, attn_mask=mask, scale=scale)
    else:
        scores = torch.matmul(wide * scale, key.transpose(2, 3)).view(rows, heads, n, -1).add_(attention_mask)
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        out = torch.matmul(weights.view(rows, heads // groups, groups * n, -1), value)
    return out.view(rows, heads, n, size).transpose(1, 2).contiguous(), None
