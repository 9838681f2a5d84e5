"""Are rows that lie side by side what they are alone? Tried out on the model as loaded, before the first step.

A configuration says which kinds of layers a family has (`attention.can_pack`); a layer that nobody listed, a convolution or a
state that runs along the tokens, would take the end of one row into the next one, and the training would be wrong in silence. So two
short rows go through the model side by side, and each of them alone through the model's own attention. And once more with other
tokens in the first row: the second must not notice, a comparison without rounding, since every product has the same shape.
"""

from typing import Any, NamedTuple

import torch

from retain.errors import ConfigError
from retain.train import attention

# Tokens: the second row is longer than the kernel of any convolution in use, and both cost one pass over the weights.
ROWS = (6, 11)
# What a model says that does not pass ``lengths`` on or does without a mask what it does with one; `packed_attention`'s own refusal.
MISFITS = (ConfigError, AttributeError, IndexError, RuntimeError, TypeError, ValueError)


class Apart(NamedTuple):
    """Distances between final states as a share of their length, of the worst token."""

    alone: float  # of rows side by side from the same rows alone
    other: float  # of the second row beside one row from the same row beside another one


# Seen: alone 4e-6 in fp32 and .04 in bf16 (SmolLM2, 30 layers), other exactly 0. Layers that run on into the next row: other from
# 8e-4 (LFM2's convolutions, three untrained layers; .003 in bf16) to 1 (Granite's hybrid). Among experts each product's shape follows
# the tokens that were sent there, and with it the rounding.
BOUNDS, BOUNDS_16_BITS, OTHER_OF_EXPERTS = Apart(1e-3, 5e-5), Apart(0.2, 0.002), 0.05
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def bounds(model: Any) -> Apart:
    if model.dtype == torch.float32:
        return BOUNDS
    config = model.config.get_text_config()
    mixed = any((getattr(config, name, 0) or 0) > 1 for name in EXPERTS)
    return BOUNDS_16_BITS._replace(other=OTHER_OF_EXPERTS) if mixed else BOUNDS_16_BITS


def settle(model: Any) -> tuple[bool, str]:
    """(whether ``model`` was switched to a kernel that is right for it, what a person should know); else its own attention stays."""
    own, said = model.config._attn_implementation, ""
    attention.register()
    for kernel in attention.kernels(model):
        reason = _wrong(model, kernel)
        if not reason:
            return True, said
        model.set_attn_implementation(own)
        said = f"{kernel}: {reason}"
    return False, said


def _wrong(model: Any, kernel: str) -> str:
    """Why a kernel is not for this model, or ""."""
    try:
        apart = distance(model, kernel)
        if kernel == attention.VARLEN:
            _backward(model)
    except torch.OutOfMemoryError:
        raise
    except MISFITS as error:
        return str(error).splitlines()[0]
    limits = bounds(model)
    if apart.alone <= limits.alone and apart.other <= limits.other:
        return ""
    return (
        f"rows side by side see each other: a row's states differ by {apart.alone:.2g} of their length from those of the same row alone (at most "
        f"{limits.alone:g}), and by {apart.other:.2g} where the row before it is another one (at most {limits.other:g})"
    )


@torch.no_grad()
def distance(model: Any, kernel: str) -> Apart:
    """``model``: with its own attention, in any mode; it is left with ``kernel``. No random number is drawn."""
    training = model.training
    model.eval()
    first, second, another = (_tokens(model, length, n) for n, length in enumerate((*ROWS, ROWS[0])))
    alone = torch.cat([_states(model, input_ids=row[None]) for row in (first, second)])
    model.set_attn_implementation(kernel)
    packed, beside = (_states(model, input_ids=torch.cat([row, second])[None], **_side_by_side(second.device)) for row in (first, another))  # fmt: skip
    model.train(training)
    return Apart(_relative(packed, alone), _relative(beside[ROWS[0] :], packed[ROWS[0] :]))


def _relative(states: torch.Tensor, reference: torch.Tensor) -> float:
    return float(((states - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


def _backward(model: Any) -> None:
    """A backward pass through the kernel; torch's own tests say that it is right, this one that it runs on this machine."""
    start = model.get_input_embeddings()(torch.cat([_tokens(model, length, 0) for length in ROWS]))[None]
    start = start.detach().requires_grad_()
    torch.autograd.grad(_states(model, inputs_embeds=start, **_side_by_side(start.device)).sum(), start)


def _side_by_side(device: Any) -> dict[str, Any]:
    positions = torch.cat([torch.arange(length, device=device) for length in ROWS])
    return {"position_ids": positions[None], "lengths": list(ROWS)}


def _tokens(model: Any, count: int, first: int) -> torch.Tensor:
    """Different tokens, spread over the vocabulary."""
    table = model.get_input_embeddings().weight
    return (torch.arange(count, device=table.device) * 7919 + 104729 * (first + 1)) % table.shape[0]


def _states(model: Any, **inputs: Any) -> torch.Tensor:
    """[T, H] what the output layer is given, fp32."""
    seen: list[torch.Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    try:
        model(**inputs, use_cache=False)
    finally:
        hook.remove()
    return seen[0][0].float()
