"""Is a token tree valid for this model? Decided by what the model says, never by its name."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retain.errors import ConfigError
from retain.score.forward import Scorer
from retain.score.plan import Request, Row

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
Tokens = tuple[int, ...]
UNBOUNDED = 1 << 30
# Mean difference per token, in nats, that rounding may make. Seen on SmolLM2 in bf16: .01 to .04 where the tree is right, .2 to 1.9
# where branches see each other, positions count along the row, or a window is overlooked; fp16 rounds eight times finer.
TOLERANCE = {"float32": 2e-4, "bfloat16": 0.1, "float16": 0.02}
CHOICES, COMPARED = 8, 2  # of an item: in the tree, and scored alone beside it
# Of the logits' spread: more than rounding, far below what a token ahead does to an encoder.
AHEAD = 0.05
PIECE = 8  # tokens of a context and of an answer on which a model's branches and positions are tried
# Kinds of layers that see tokens through a mask alone; others carry a state along the row, or look up places in it.
MASKED = {"full_attention", "sliding_attention", "chunked_attention", "attention", "moe"}


def deepest_tree(config: Any) -> int:
    """Longest input, in tokens, for which every ancestor is in sight of every layer (windows and chunks are shorter); 0: none.

    LongRoPE (Phi-3) turns every position of a batch by other angles once one of them is past the first context length.
    GPT-Neo hides what is far away by its place in the row, whatever the mask says; a recurrent layer or a convolution has no mask at
    all: no tree is safe there.
    """
    text = config.get_text_config()
    if "local" in (getattr(text, "attention_layers", None) or ()):
        return 0
    kinds = getattr(text, "layer_types", None)
    if kinds and not MASKED.issuperset(kinds):
        return 0
    lengths: list[Any] = [first_context(text)]
    if not kinds or any(kind != "full_attention" for kind in kinds):
        lengths += [getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None, getattr(text, "attention_chunk_size", None)]  # fmt: skip
    return min((int(size) for size in lengths if size), default=UNBOUNDED)


def first_context(text: Any) -> int:
    """Tokens up to which LongRoPE keeps its first angles; 0 for other models."""
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    for part in parts:
        if "longrope" in (part.get("rope_type"), part.get("type")):
            first = part.get("original_max_position_embeddings") or text.original_max_position_embeddings
            return int(first)
    return 0


def need_causal(model: Any) -> None:
    """Refuse a model whose predictions change with what comes later (an encoder such as BERT): its scores would say nothing, and
    padding would move them."""
    import torch

    if _apart(model, torch.tensor([[5, 6, 7], [5, 6, 8]]), torch.ones(1, 3, dtype=torch.long), slice(0, 2)) > AHEAD:
        raise ConfigError(
            "this model sees the tokens it should predict", where="model.base_model", got=type(model).__name__,
            expected="a causal language model, or an encoder–decoder", fix="choose a model that writes text from left to right",
        )  # fmt: skip


def pads_unseen(model: Any) -> bool:
    """Whether a masked token on the left changes nothing (RWKV takes it into its state): only then may prompts of several lengths be
    continued together."""
    import torch

    apart = _apart(model, torch.tensor([[5, 6, 7, 8], [9, 6, 7, 8]]), torch.tensor([[0, 1, 1, 1]]), slice(1, 4))
    return not apart > (AHEAD if _rounds_together(model) else 0.0)


def _apart(model: Any, texts: "torch.Tensor", mask: "torch.Tensor", places: slice) -> float:
    """Largest difference between the logits of two texts [2, n] under one mask [1, n] at ``places``, in standard deviations of all
    logits; what is no number is refused later, with the item's name."""
    import torch

    with torch.inference_mode():
        one, two = (
            model(input_ids=text[None].to(model.device), attention_mask=mask.to(model.device), use_cache=False)
            .logits[0, places]
            .float()
            for text in texts
        )
    return float((one - two).abs().max() / one.std())


def agrees(scorer: Scorer, requests: Sequence[Request]) -> bool:
    """Score a few items both ways; False (and a line in the log) where the tree gives other numbers or cannot run.

    Two properties are asked of the model bit by bit, where no rounding can hide a fault: what stands in another branch
    changes nothing, and positions count as they are given. A window shows in the numbers alone.
    """
    items = _sample(requests)
    try:
        if not scorer.sound and (fault := _fault(scorer, requests)):
            log.warning("token trees are not valid for this model (%s): every choice is scored alone", fault)
            return False
        scorer.sound = True
        trees = Scorer(
            scorer.model, max_length=scorer.max_length, budget=scorer.budget, max_depth=scorer.max_depth
        ).score([request for item in items for request in item])
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError) as error:
        log.warning("token trees do not run on this architecture (%s): every choice is scored alone", error)
        return False
    found = iter(trees)
    pairs = [pair for item in items for pair in [(request, next(found)) for request in item][-COMPARED:]]
    alone = Scorer(scorer.model, max_length=scorer.max_length, budget=scorer.budget, tree=False, max_depth=scorer.max_depth).score([request for request, _ in pairs])  # fmt: skip
    apart = sum(abs(one[0] - two[0]) / len(request.continuation) for (request, one), two in zip(pairs, alone, strict=True)) / len(pairs)  # fmt: skip
    if apart <= TOLERANCE[_dtype(scorer)]:
        return True
    log.warning(
        "token trees are not valid for this model (%.3g nats a token apart): every choice is scored alone", apart
    )
    return False


def _fault(scorer: Scorer, requests: Sequence[Request]) -> str:
    """What of a tree this model does not keep to, tried on a short piece of an item; empty: nothing."""
    start, answer = (
        requests[0].context[-PIECE:],
        (requests[0].continuation * PIECE)[:PIECE],
    )  # also where answers are letters
    plain, other = (_branches(scorer, start, answer, token) for token in (1, 2))
    allowed = TOLERANCE[_dtype(scorer)] * len(answer) if _rounds_together(scorer.model) else 0.0
    if max(abs(one - two) for one, two in zip(plain, other, strict=True)) > allowed:
        return "a branch sees its neighbours"
    return "positions cannot be set" if plain == _branches(scorer, start, answer, 1, turned=True) else ""


def _branches(scorer: Scorer, start: Tokens, answer: Tokens, token: int, *, turned: bool = False) -> tuple[float, float]:  # fmt: skip
    """Log-likelihood of ``answer`` before and behind two branches that repeat ``token``, in one row; turned: positions count backwards."""
    row, inputs = Row(), [*start, *answer[:-1]]
    trunk = row.add(0, inputs, answer, [])[: len(start)]
    for number in (2, 3):
        row.add(number, [*start, *[token] * (len(answer) - 1)], answer, trunk)
    row.add(1, inputs, answer, trunk)
    row.depths = [max(row.depths) - depth for depth in row.depths] if turned else row.depths
    found = dict(scorer.score_row(row))
    return found[0][0], found[1][0]


def _rounds_together(model: Any) -> bool:
    """Whether tokens may change how others round: how many meet at an expert chooses its kernel, and int8 takes the outliers of a
    whole batch together."""
    settings = model.config.get_text_config().to_dict()
    return bool(model.config.to_dict().get("quantization_config")) or any("expert" in name for name in settings)


def _dtype(scorer: Scorer) -> str:
    return str(scorer.model.dtype).removeprefix("torch.")


def _sample(requests: Sequence[Request]) -> list[list[Request]]:
    """The longest item, and the longest with several choices, each in the order of its tree.

    What stands last in a tree is furthest from its context: there a wrong mask or position shows most.
    """
    groups: dict[Any, list[Request]] = defaultdict(list)
    for request in requests:
        groups[request.group].append(request)
    ordered = sorted(groups.values(), key=lambda g: max(len(r.context) + len(r.continuation) for r in g))
    several = [group for group in ordered if len(group) > 1] or ordered
    chosen = {id(group): group for group in (several[-1], ordered[-1])}
    return [sorted(group, key=lambda r: r.context + r.continuation)[-CHOICES:] for group in chosen.values()]
