"""Batched generation with a base model: the one file here that knows torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain.models import load_model, load_tokenizer, pick_device
from retain.rehearse.config import RehearseConfig


@dataclass(frozen=True)
class Written:
    """What the model wrote, and whether it came to an end of its own."""

    text: str
    finished: bool
    tokens: int


class Writer:
    """A model that continues texts; what it writes depends on the model, the settings and ``seed`` of each call alone."""

    def __init__(self, model_dir: Path, config: RehearseConfig, end_of_turn: str) -> None:
        self.config = config
        self.tokenizer = load_tokenizer(model_dir)
        self.tokenizer.padding_side = "left"
        self._model = load_model(model_dir, dtype=config.dtype, device=pick_device(config.device))
        ends = [self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids(end_of_turn) if end_of_turn else None]
        self._ends = sorted({end for end in ends if end is not None})

    def write(
        self, texts: Sequence[str], *, framed: bool, new_tokens: int, temperature: float, seed: int
    ) -> list[Written]:
        """Continue each text; ``framed`` texts hold their special tokens already."""
        import torch

        torch.manual_seed(seed)
        batch = self.tokenizer(list(texts), return_tensors="pt", padding=True, add_special_tokens=not framed)
        batch.pop("token_type_ids", None)
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_p": self.config.top_p, "top_k": 0}
        with torch.inference_mode():
            out = self._model.generate(
                **batch.to(self._model.device), max_new_tokens=new_tokens, eos_token_id=self._ends,
                pad_token_id=self.tokenizer.pad_token_id, repetition_penalty=1.0, **sampling,
            )  # fmt: skip
        start = batch["input_ids"].shape[1]
        return [self._written(row[start:].tolist()) for row in out]

    def _written(self, tokens: list[int]) -> Written:
        end = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        kept = tokens if end is None else tokens[:end]
        return Written(self.tokenizer.decode(kept, skip_special_tokens=True).strip(), end is not None, len(kept))
