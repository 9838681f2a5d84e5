"""Is a token tree valid for this model? Decided by what the model says, never by its name."""

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from retain.score.forward import Scorer
from retain.score.plan import Request

log = logging.getLogger(__name__)
UNBOUNDED = 1 << 30
ITEMS = 3
# Mean difference per scored token, in nats: rounding alone stays far below, a wrong mask is far above.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.05}


def deepest_tree(config: Any) -> int:
    """Longest input, in tokens, for which every ancestor is in sight of every layer (sliding windows are shorter)."""
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if window is None or getattr(text, "use_sliding_window", True) is False:
        return UNBOUNDED
    kinds = getattr(text, "layer_types", None)
    return UNBOUNDED if kinds and all(kind == "full_attention" for kind in kinds) else int(window)


def agrees(scorer: Scorer, requests: Sequence[Request]) -> bool:
    """Score a few items both ways; False (and a line in the log) where the tree gives other numbers or cannot run."""
    sample = _sample(requests)
    try:
        trees = Scorer(
            scorer.model, max_length=scorer.max_length, budget=scorer.budget, max_depth=scorer.max_depth
        ).score(sample)
    except (ValueError, TypeError, RuntimeError, IndexError, KeyError, AttributeError, NotImplementedError) as error:
        log.warning("token trees do not run on this architecture (%s): every choice is scored alone", error)
        return False
    plain = Scorer(scorer.model, max_length=scorer.max_length, budget=scorer.budget, tree=False).score(sample)
    tokens = sum(len(request.continuation) for request in sample)
    apart = sum(abs(one[0] - two[0]) for one, two in zip(trees, plain, strict=True)) / tokens
    if apart <= TOLERANCE[str(scorer.model.dtype).removeprefix("torch.")]:
        return True
    log.warning(
        "token trees are not valid for this model (%.3g nats a token apart): every choice is scored alone", apart
    )
    return False


def _sample(requests: Sequence[Request]) -> list[Request]:
    """All requests of a few items with several choices: the longest, a middling and the shortest."""
    groups: dict[Any, list[Request]] = defaultdict(list)
    for request in requests:
        groups[request.group].append(request)
    several = sorted(
        (g for g in groups.values() if len(g) > 1), key=lambda g: max(len(r.context) + len(r.continuation) for r in g)
    )
    several = several or list(groups.values())
    picked = {0, len(several) // 2, len(several) - 1}
    return [request for k in sorted(picked)[:ITEMS] for request in several[k]]
