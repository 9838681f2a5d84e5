"""Linear layers whose weights lie as the CPU's matrix kernels want them (oneDNN's blocked layout): laid out once, not at every batch.

torch's own compiler does the same when it freezes a model; here it costs no compilation. In fp32 the kernels differ too: oneDNN
uses the whole width of the vector units where MKL, which torch takes by itself, does not (AMD; 2.4 times as fast there). In
bf16 the numbers are the very same. On other devices, and where torch was built without oneDNN, nothing changes.
"""

import platform
from typing import Any

import torch
from torch import nn

DTYPES = (torch.float32, torch.bfloat16)
NARROWEST = 16  # below it (the inner side of a LoRA) there is nothing to gain


class PackedLinear(nn.Linear):
    """An ``nn.Linear`` with its weight in oneDNN's layout in its place, or beside it from its first use on."""

    packed: torch.Tensor | None
    rows: int

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.packed is None:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), self.rows)
        return torch.ops.mkldnn._linear_pointwise(inputs, self.packed, self.bias, "none", [], "")  # type: ignore[no-any-return]


def pack(model: Any, rows: int, *, keep: bool = False) -> None:
    """Pack the linear layers of ``model`` in place; once more, where the weights of a packed model were kept and have changed.

    rows: tokens of a usual batch, which the layout is chosen for (any number works). keep: the weights stay readable beside
    the packed ones (an adapter may compute with them, a sweep may change them), at the price of their memory, and are
    packed when they are first used. What is no
    plain ``nn.Linear`` (int8, NF4, an adapter's own layers) stays as it is.
    """
    if model.device.type != "cpu" or not _known_here(model.dtype):
        return
    for layer in list(model.modules()):
        if (
            type(layer) in (nn.Linear, PackedLinear)
            and layer.weight.dtype in DTYPES
            and min(layer.weight.shape) >= NARROWEST
        ):
            _pack(layer, rows, keep)


def _known_here(dtype: torch.dtype) -> bool:
    """Whether this machine has the kernels (seen on x86 only, so used there only)."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack(layer: nn.Linear, rows: int, keep: bool) -> None:
    weight = layer.weight.detach()
    layer.__class__ = PackedLinear
    layer.rows, layer.packed = rows, None
    if not keep:  # a head that is tied to the embedding: the embedding keeps its own
        layer.packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        layer.weight = nn.Parameter(torch.empty(0, 0, dtype=weight.dtype), requires_grad=False)
