"""Rows that judge answers, for the tiny models: the same prompts with a good and a bad answer."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from retain import artifacts

IGNORED = artifacts.IGNORED_LABEL


def judged_rows(kind: str, count: int = 24, *, seed: int = 0, pairs: bool = False) -> Iterator[dict[str, Any]]:
    """``kind`` preference or kto. Good answers count upwards from the prompt's last token, bad ones downwards. Every fourth
    row is a plain replay row; the last eight validate. ``pairs``: for an encoder-decoder."""
    random = np.random.default_rng(seed)
    for i in range(count):
        start, asked, said = int(random.integers(60, 180)), int(random.integers(3, 9)), int(random.integers(3, 9))
        prompt = [start + n for n in range(asked)]
        good, bad = [prompt[-1] + n + 1 for n in range(said)], [prompt[-1] - n - 1 for n in range(said + i % 3)]
        plain = i % 4 == 3
        judgement: dict[str, Any] = {}
        first = good
        if kind == "preference" and not plain:
            judgement = {"rejected_" + name: value for name, value in side(prompt, bad, pairs).items()}
        elif not plain:
            judgement = {"desirable": i % 2 == 0}
            first = good if i % 2 == 0 else bad
        yield {
            "id": f"row-{i}", "source": "made", "part": "replay" if plain else "target", "split": "validation" if i >= count - 8 else "train",
            "weight": 1.0 + i % 2, **side(prompt, first, pairs), "n_supervised": said, **judgement,
        }  # fmt: skip


def side(prompt: list[int], answer: list[int], pairs: bool = False) -> dict[str, list[int]]:
    if pairs:
        return {"input_ids": prompt, "labels": answer}
    return {"input_ids": prompt + answer, "labels": [IGNORED] * len(prompt) + answer}
