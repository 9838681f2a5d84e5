"""Signs of forgetting for nearly nothing: how far the tuned model's predictions moved on general text, token by token."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import models
from retain.artifacts import IGNORED_LABEL, read_rows
from retain.errors import IntegrityError
from retain.progress import track
from retain.score import place
from retain.score.config import ScoreConfig

if TYPE_CHECKING:
    import torch

Row = Mapping[str, Any]
VERSION = "1"
# Positions whose full distributions are kept of the base while the tuned model is loaded: 2048 × 50 000 in fp32 is 400 MB.
POSITIONS = 2048
LONGEST = 2048


@dataclass(frozen=True)
class Signals:
    """Means over `tokens` supervised tokens, in nats: cross-entropy of both models and KL(base ‖ tuned)."""

    tokens: int
    base_cross_entropy: float
    tuned_cross_entropy: float
    kl: float

    @property
    def rise(self) -> float:
        """Rise of cross-entropy a token; LoRA runs of PEFT's comparison show .03 to .11, broken ones above .4."""
        return self.tuned_cross_entropy - self.base_cross_entropy


def general(dataset: Path, count: int) -> list[Row]:
    """The first ``count`` rows of general text that were never trained on: part replay, split validation."""
    rows = (row for row in read_rows(dataset, "retain.dataset/1") if row["part"] == "replay" and row["split"] == "validation")  # fmt: skip
    return list(islice(rows, count))


def measure(config: ScoreConfig, base_dir: Path, tuned_dir: Path, rows: Sequence[Row]) -> Signals | None:
    """Signals on ``rows``, up to POSITIONS tokens; loads one model after the other. None where they do not read the rows as the same tokens."""
    where = place.resolve(config)
    texts, others = (_tokens(rows, models.load_tokenizer(folder), config) for folder in (base_dir, tuned_dir))
    if texts != others:
        return None
    base = list(_log_probabilities(base_dir, where, texts, "base"))
    return compare(texts, base, _log_probabilities(tuned_dir, where, texts, "tuned"))


def _tokens(rows: Sequence[Row], tokenizer: Any, config: ScoreConfig) -> list[tuple[list[int], list[int]]]:
    """(tokens, places of the supervised ones) of each row, as the model was trained on such rows."""
    from retain.chat import Renderer

    renderer = Renderer(tokenizer, config.chat_options())
    drafts = [renderer.draft(row["shape"], json.loads(row["payload"]), where=f"row {row['id']}") for row in rows]
    limit, left, found = config.max_length or LONGEST, POSITIONS, []
    for row in renderer.encode(drafts):
        places = [i for i, label in enumerate(row.labels[:limit]) if label != IGNORED_LABEL and i > 0][:left]
        if places:
            found.append((list(row.input_ids[: places[-1] + 1]), places))
            left -= len(places)
    return found


def _log_probabilities(folder: Path, where: place.Place, texts: Sequence[tuple[list[int], list[int]]], name: str) -> "Iterator[torch.Tensor]":  # fmt: skip
    """Of every supervised token's position in each text: fp32 [n, V], on the CPU."""
    import torch

    model = models.load_model(folder, dtype=where.dtype, device=where.device)
    with torch.inference_mode():
        for tokens, places in track(texts, f"signals {name}", total=len(texts), unit="texts"):
            logits = model(input_ids=torch.tensor([tokens], device=where.device), use_cache=False).logits[0]
            yield logits[torch.tensor(places) - 1].float().log_softmax(-1).cpu()


def compare(texts: Sequence[tuple[list[int], list[int]]], base: "Iterable[torch.Tensor]", tuned: "Iterable[torch.Tensor]") -> Signals:  # fmt: skip
    """Signals over ``texts`` (tokens, supervised places), from both models' log-probabilities [n, V] at these places."""
    import torch

    sums = torch.zeros(3, dtype=torch.float64)
    for (tokens, places), own, other in zip(texts, base, tuned, strict=True):
        column = torch.tensor([tokens[i] for i in places])[:, None]
        kl = (own.exp() * (own - other)).sum()
        sums += torch.stack([-own.gather(1, column).sum(), -other.gather(1, column).sum(), kl]).double()
    if not bool(torch.isfinite(sums).all()):
        raise IntegrityError(
            "a model's output on general text is not a number", got=sums.tolist(), fix="look for NaN in the weights"
        )
    count = sum(len(places) for _, places in texts)
    means = (sums / max(count, 1)).tolist()
    return Signals(count, means[0], means[1], means[2])
