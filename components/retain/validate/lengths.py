"""Length of rows in tokens, in the base's own template; counted once, in batches."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retain.chat.template import ChatTemplate, has_template
from retain.errors import DataRefused
from retain.models import load_tokenizer
from retain.validate.config import ValidateConfig
from retain.validate.sample import Sample

LIMITS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
NO_LIMIT = 1 << 30
BATCH = 500


def model_limit(folder: Path, tokenizer: Any) -> int:
    """The longest input of a model in tokens, from its config and its tokenizer; NO_LIMIT where neither says one."""
    config = (
        json.loads((folder / "config.json").read_text(encoding="utf-8")) if (folder / "config.json").is_file() else {}
    )
    config = {**config, **(config.get("text_config") or {})}
    stated = [int(config[name]) for name in LIMITS if isinstance(config.get(name), int) and config[name] > 0]
    return min([*stated[:1], int(min(tokenizer.model_max_length, NO_LIMIT)), NO_LIMIT])


class Lengths:
    """Counts tokens; text that is over the limit whatever its tokens are is not tokenised."""

    def __init__(self, config: ValidateConfig, model_dir: Path) -> None:
        self.tokenizer = load_tokenizer(model_dir)
        self.limit = config.max_tokens or model_limit(model_dir, self.tokenizer)
        self._config = config
        self._template = ChatTemplate(self.tokenizer, {}) if has_template(self.tokenizer) else None
        self._longest = max((len(token) for token in self.tokenizer.get_vocab()), default=1)

    def count(self, samples: Sequence[Sample]) -> None:
        """Fill ``tokens`` of every sample; note what the template cannot render and what is too long."""
        texts: list[tuple[Sample, str]] = []
        for sample in samples:
            if sample.shape == "tokenized" and sample.payload:
                sample.tokens = len(sample.payload["input_ids"])
            elif sample.payload:
                texts += [(sample, text) for text in self._texts(sample)]
        for start in range(0, len(texts), BATCH):
            self._count(texts[start : start + BATCH])

    def _count(self, batch: list[tuple[Sample, str]]) -> None:
        countable = [(s, t) for s, t in batch if len(t) <= self.limit * self._longest]
        for sample, text in batch:
            sample.tokens = (
                max(sample.tokens, 1 + len(text) // self._longest)
                if len(text) > self.limit * self._longest
                else sample.tokens
            )
        for (sample, _), n in zip(countable, self._tokens([t for _, t in countable]), strict=True):
            sample.tokens = max(sample.tokens, n)

    def _tokens(self, texts: list[str]) -> list[int]:
        if not texts:
            return []
        if self.tokenizer.is_fast:
            backend = self.tokenizer.backend_tokenizer
            return [len(encoding.ids) for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
        return [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]

    def _texts(self, sample: Sample) -> list[str]:
        """What becomes tokens: one text, for a preference two."""
        payload, shape = sample.payload or {}, sample.shape
        if shape == "messages":
            return self._rendered(sample, payload["messages"], payload.get("tools"))
        if shape in ("preference", "kto", "prompt_completion"):
            answers = [payload[name] for name in ("completion", "chosen", "rejected") if name in payload]
            return [text for answer in answers for text in self._pair(sample, payload["prompt"], answer)]
        return [sample.text]

    def _pair(self, sample: Sample, prompt: Any, answer: Any) -> list[str]:
        if isinstance(prompt, str) and isinstance(answer, str) and self._template is None:
            return [prompt + answer]
        before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return self._rendered(
            sample,
            [*before, *([{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer)],
            None,
        )

    def _rendered(self, sample: Sample, chat: list[dict[str, Any]], tools: Any) -> list[str]:
        plain = "\n".join(message["content"] for message in chat)
        if self._template is None or "unknown_role" in sample.counts or "role_order" in sample.counts:
            return [plain]
        try:
            return [self._template.text(chat, tools)]
        except DataRefused as error:
            if self._config.unrenderable != "off":
                sample.note("unrenderable", error.got.partition("\n")[0])
            return [plain]
