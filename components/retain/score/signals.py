"""Signs of forgetting for nearly nothing: how far the tuned model's predictions moved on general text, token by token."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retain import models
from retain.artifacts import IGNORED_LABEL, read_rows
from retain.errors import DataRefused, IntegrityError
from retain.progress import track
from retain.score import place
from retain.score.config import ScoreConfig

if TYPE_CHECKING:
    import torch

    Logits = Callable[["torch.Tensor"], "torch.Tensor"]
# Positions whose full distributions are compared at once: 256 × 50 000 in fp32 is 50 MB.
BLOCK = 256


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


def measure(config: ScoreConfig, base_dir: Path, tuned_dir: Path, dataset: Path, *, rows: int = 200) -> Signals:
    """Signals on the first ``rows`` general validation rows (part replay, split validation) of ``dataset``; loads both models."""
    where = place.resolve(config)
    texts = _general(dataset, models.load_tokenizer(base_dir), config, rows)
    both = [models.load_model(folder, dtype=where.dtype, device=where.device) for folder in (base_dir, tuned_dir)]
    one, two = (lambda ids, model=model: model(input_ids=ids, use_cache=False).logits[0] for model in both)
    return compare(texts, one, two, device=where.device)


def _general(dataset: Path, tokenizer: Any, config: ScoreConfig, rows: int) -> list[tuple[list[int], list[int]]]:
    """(tokens, labels) of general rows that were never trained on."""
    from retain.chat import Renderer

    chosen = list(
        islice(
            (r for r in read_rows(dataset, "retain.dataset/1") if r["part"] == "replay" and r["split"] == "validation"),
            rows,
        )
    )
    if not chosen:
        raise DataRefused("the dataset has no general rows to measure forgetting on", where=str(dataset), expected="rows with part replay and split validation")  # fmt: skip
    renderer = Renderer(tokenizer, config.chat_options())
    rendered = renderer.encode(
        [renderer.draft(r["shape"], json.loads(r["payload"]), where=f"row {r['id']}") for r in chosen]
    )
    limit = config.max_length or 2048
    return [(row.input_ids[:limit], row.labels[:limit]) for row in rendered]


def compare(
    texts: Sequence[tuple[list[int], list[int]]], base: "Logits", tuned: "Logits", *, device: str = "cpu"
) -> Signals:
    """Signals over ``texts`` (tokens, labels); ``base`` and ``tuned`` give logits [T, V] for input ids [1, T]."""
    import torch

    sums = torch.zeros(3, dtype=torch.float64)
    count = 0
    with torch.inference_mode():
        for tokens, labels in track(texts, "signals", total=len(texts), unit="texts"):
            ids = torch.tensor([tokens], device=device)
            at = torch.tensor(
                [i - 1 for i, label in enumerate(labels) if label != IGNORED_LABEL and i > 0],
                dtype=torch.long,
                device=device,
            )
            for own, other, targets in _blocks(base(ids), tuned(ids), at, ids[0]):
                sums += _of_block(own, other, targets)
                count += len(targets)
    if not bool(torch.isfinite(sums).all()):
        raise IntegrityError(
            "a model's output on general text is not a number", got=sums.tolist(), fix="look for NaN in the weights"
        )
    means = (sums / max(count, 1)).tolist()
    return Signals(count, means[0], means[1], means[2])


def _blocks(base: "torch.Tensor", tuned: "torch.Tensor", at: "torch.Tensor", ids: "torch.Tensor") -> Iterator[tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]]:  # fmt: skip
    for places in at.split(BLOCK):
        yield base[places].float().log_softmax(-1), tuned[places].float().log_softmax(-1), ids[places + 1]


def _of_block(base: "torch.Tensor", tuned: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """Sums of -log p_base, -log p_tuned and KL over a block of positions; log-probabilities [n, V]."""
    import torch

    column = targets[:, None]
    kl = (base.exp() * (base - tuned)).sum()
    return torch.stack([-base.gather(1, column).sum(), -tuned.gather(1, column).sum(), kl]).double().cpu()
