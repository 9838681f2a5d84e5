"""Signs of forgetting for nearly nothing: how far the tuned model's predictions moved on general text, token by token."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import models
from retain.artifacts import IGNORED_LABEL, read_rows
from retain.errors import ConfigError, DataRefused, IntegrityError
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


def measure(config: ScoreConfig, base_dir: Path, tuned_dir: Path, rows: Sequence[Row]) -> Signals | str:
    """Signals on ``rows``, up to POSITIONS tokens; loads one model after the other. Where the two cannot be compared: the reason, and
    neither is loaded."""
    where = place.resolve(config)
    folders = (base_dir, tuned_dir)
    tokenizers = [models.load_tokenizer(folder) for folder in folders]
    longest, words = (min(sizes) for sizes in zip(*map(_sizes, folders, tokenizers), strict=True))
    limit = min(config.max_length or LONGEST, longest)
    try:
        texts, others = (_tokens(rows, tokenizer, config, limit) for tokenizer in tokenizers)
    except (ConfigError, DataRefused) as error:  # no chat template, or one that does not take such a chat
        return f"general rows cannot be read: {error.what}"
    if texts != others:
        return "base and candidate read general rows as different tokens"
    if not texts:
        return f"no answer among general rows begins within {limit} tokens"
    if any(max(tokens) >= words for tokens, _ in texts):
        return f"general rows hold a token beyond the {words} that both models have"
    base = list(_log_probabilities(base_dir, where, texts, "base"))
    return compare(texts, base, _log_probabilities(tuned_dir, where, texts, "tuned"))


def _sizes(folder: Path, tokenizer: Any) -> tuple[int, int]:
    """(context length, rows of the embedding) of a model folder."""
    from lm_eval.models.utils import resolve_max_length

    config = models.config_of(folder)
    return resolve_max_length(config, tokenizer), config.get_text_config().vocab_size


def _tokens(rows: Sequence[Row], tokenizer: Any, config: ScoreConfig, limit: int) -> list[tuple[list[int], list[int]]]:
    """(tokens, places of the supervised ones) of each row's first ``limit`` tokens, as the model was trained on such rows."""
    from retain.chat import Renderer

    renderer = Renderer(tokenizer, config.chat_options())
    drafts = [renderer.draft(row["shape"], json.loads(row["payload"]), where=f"row {row['id']}") for row in rows]
    left, found = POSITIONS, []
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
    """Signals over ``texts`` (tokens, supervised places), from both models' log-probabilities [n, V] at these places.

    Where one embedding has more rows (padded, or new words), the divergence is that of the predictions among the tokens both have.
    """
    import torch

    sums = torch.zeros(3, dtype=torch.float64)
    for (tokens, places), own, other in zip(texts, base, tuned, strict=True):
        column = torch.tensor([tokens[i] for i in places])[:, None]
        crosses = [-own.gather(1, column).sum(), -other.gather(1, column).sum()]
        if own.shape[1] != other.shape[1]:
            shared = min(own.shape[1], other.shape[1])
            own, other = (values[:, :shared].log_softmax(-1) for values in (own, other))
        sums += torch.stack([*crosses, (own.exp() * (own - other)).sum()]).double()
    if not bool(torch.isfinite(sums).all()):
        raise IntegrityError(
            "a model's output on general text is not a number", got=sums.tolist(), fix="look for NaN in the weights"
        )
    count = sum(len(places) for _, places in texts)
    means = (sums / max(count, 1)).tolist()
    return Signals(count, means[0], means[1], means[2])
