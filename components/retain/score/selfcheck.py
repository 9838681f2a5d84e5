"""Is a token tree valid for this model? Decided by what the model says, never by its name."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from retain.score.forward import Scorer
from retain.score.plan import Request

log = logging.getLogger(__name__)
UNBOUNDED = 1 << 30
# Largest difference per scored token, in nats: rounding alone stays below (logits of bf16 come in steps of .125), a wrong
# mask is far above in a trained model.
TOLERANCE = {"float32": 2e-4, "bfloat16": 0.5, "float16": 0.1}


def deepest_tree(config: Any) -> int:
    """Longest input, in tokens, for which every ancestor is in sight of every layer (sliding windows are shorter)."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if window is None or getattr(text, "use_sliding_window", True) is False:
        return UNBOUNDED
    kinds = getattr(text, "layer_types", None)
    return UNBOUNDED if kinds and all(kind == "full_attention" for kind in kinds) else int(window)


def agrees(scorer: Scorer, requests: Sequence[Request]) -> bool:
    """Score two items both ways; False (and a line in the log) where the tree gives other numbers or cannot run."""
    sample = _sample(requests)
    try:
        trees = Scorer(
            scorer.model, max_length=scorer.max_length, budget=scorer.budget, max_depth=scorer.max_depth
        ).score(sample)
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError) as error:
        log.warning("token trees do not run on this architecture (%s): every choice is scored alone", error)
        return False
    plain = Scorer(scorer.model, max_length=scorer.max_length, budget=scorer.budget, tree=False).score(sample)
    apart = max(
        abs(one[0] - two[0]) / len(request.continuation) for one, two, request in zip(trees, plain, sample, strict=True)
    )
    if apart <= TOLERANCE[str(scorer.model.dtype).removeprefix("torch.")]:
        return True
    log.warning(
        "token trees are not valid for this model (%.3g nats a token apart): every choice is scored alone", apart
    )
    return False


def _sample(requests: Sequence[Request]) -> list[Request]:
    """Two choices of the longest and of the shortest item: enough for branches, a prefix and a hidden window to show."""
    groups: dict[Any, list[Request]] = defaultdict(list)
    for request in requests:
        groups[request.group].append(request)
    ordered = sorted(groups.values(), key=lambda g: max(len(r.context) + len(r.continuation) for r in g))
    several = [group for group in ordered if len(group) > 1] or ordered
    return [*several[-1][:2], *(several[0][:2] if len(several) > 1 else [])]
