"""Is a token tree valid for this model? Decided by what the model says, never by its name."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from retain.score.forward import Scorer
from retain.score.plan import Request

log = logging.getLogger(__name__)
UNBOUNDED = 1 << 30
# Mean difference per token, in nats, that rounding may make. Seen on SmolLM2 in bf16: .01 to .04 where the tree is right, .2 to 1.9
# where branches see each other, positions count along the row, or a window is overlooked; fp16 rounds eight times finer.
TOLERANCE = {"float32": 2e-4, "bfloat16": 0.1, "float16": 0.02}
CHOICES, COMPARED = 8, 2  # of an item: in the tree, and scored alone beside it


def deepest_tree(config: Any) -> int:
    """Longest input, in tokens, for which every ancestor is in sight of every layer (windows and chunks are shorter); 0: none.

    GPT-Neo hides what is far away by its place in the row, whatever the mask says: no tree is safe there.
    """
    text = config.get_text_config()
    if "local" in (getattr(text, "attention_layers", None) or ()):
        return 0
    kinds = getattr(text, "layer_types", None)
    if kinds and all(kind == "full_attention" for kind in kinds):
        return UNBOUNDED
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    return min((int(size) for size in (window, getattr(text, "attention_chunk_size", None)) if size), default=UNBOUNDED)


def agrees(scorer: Scorer, requests: Sequence[Request]) -> bool:
    """Score a few items both ways; False (and a line in the log) where the tree gives other numbers or cannot run."""
    items = _sample(requests)
    try:
        trees = Scorer(
            scorer.model, max_length=scorer.max_length, budget=scorer.budget, max_depth=scorer.max_depth
        ).score([request for item in items for request in item])
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError) as error:
        log.warning("token trees do not run on this architecture (%s): every choice is scored alone", error)
        return False
    found = iter(trees)
    pairs = [pair for item in items for pair in [(request, next(found)) for request in item][-COMPARED:]]
    alone = Scorer(scorer.model, max_length=scorer.max_length, budget=scorer.budget, tree=False).score([request for request, _ in pairs])  # fmt: skip
    apart = sum(abs(one[0] - two[0]) / len(request.continuation) for (request, one), two in zip(pairs, alone, strict=True)) / len(pairs)  # fmt: skip
    if apart <= TOLERANCE[str(scorer.model.dtype).removeprefix("torch.")]:
        return True
    log.warning(
        "token trees are not valid for this model (%.3g nats a token apart): every choice is scored alone", apart
    )
    return False


def _sample(requests: Sequence[Request]) -> list[list[Request]]:
    """The longest item, the longest and the shortest with several choices, each in the order of its tree.

    What stands last in a tree is furthest from its context: there a wrong mask or position shows most.
    """
    groups: dict[Any, list[Request]] = defaultdict(list)
    for request in requests:
        groups[request.group].append(request)
    ordered = sorted(groups.values(), key=lambda g: max(len(r.context) + len(r.continuation) for r in g))
    several = [group for group in ordered if len(group) > 1] or ordered
    chosen = {id(group): group for group in (several[0], several[-1], ordered[-1])}
    return [sorted(group, key=lambda r: r.context + r.continuation)[-CHOICES:] for group in chosen.values()]
