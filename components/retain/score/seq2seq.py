"""Encoder–decoder models (T5, BART): a context is encoded once, and the decoder scores every continuation of it.

Tokens by lm-eval's rule for such models: context and continuation each on their own, the continuation without special
tokens (api/model.py `_encode_pair`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance

from retain.errors import ConfigError
from retain.score.forward import Answer, Scorer
from retain.score.lm import Engine, spaces_moved
from retain.score.plan import Request

Tokens = tuple[int, ...]


class Seq2SeqScorer(Scorer):
    """As Scorer, for a model with an encoder; `budget` bounds the padded tokens of a batch on either side."""

    @torch.inference_mode()
    def _score(self, requests: Sequence[Request], done: Callable[[int], None]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        asked: dict[Tokens, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            asked[request.context[-self.max_length :]].append(i)
        for contexts in _batches(sorted(asked, key=lambda c: (-len(c), c)), self.budget):
            memory, mask = self._encoded(contexts)
            rows = sorted(((k, i) for k, c in enumerate(contexts) for i in asked[c]), key=lambda row: -len(requests[row[1]].continuation))  # fmt: skip
            for part in _batches_of(rows, [len(requests[i].continuation) for _, i in rows], min(self.budget, self.scored_budget)):  # fmt: skip
                places = torch.tensor([k for k, _ in part], device=self.device)
                found = self._decoded(memory[places], mask[places], [requests[i].continuation for _, i in part])
                answers.update(zip((i for _, i in part), found, strict=True))
                done(len(part))
        return [answers[i] for i in range(len(requests))]

    def _encoded(self, contexts: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
        """(hidden states [n, T, H], mask [n, T]) of padded contexts."""
        width = max(map(len, contexts))
        ids = torch.tensor([[*c, *[0] * (width - len(c))] for c in contexts], device=self.device)
        mask = torch.tensor([[1] * len(c) + [0] * (width - len(c)) for c in contexts], device=self.device)
        return self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state, mask

    def _decoded(self, memory: torch.Tensor, mask: torch.Tensor, continuations: Sequence[Tokens]) -> list[Answer]:
        from transformers.modeling_outputs import BaseModelOutput

        width = max(map(len, continuations))
        # mBART begins with a text's own last token, which it looks for before the padding.
        pad = self.model.config.pad_token_id or 0
        labels = torch.tensor([[*c, *[pad] * (width - len(c))] for c in continuations], device=self.device)
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory), attention_mask=mask, use_cache=False, **self._shifted(labels),
        ).logits  # fmt: skip
        values = logits.float().log_softmax(-1).gather(2, labels[:, :, None])[:, :, 0]
        hits = logits.argmax(-1) == labels
        return [(float(values[k, : len(c)].sum()), bool(hits[k, : len(c)].all())) for k, c in enumerate(continuations)]

    def _shifted(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the decoder reads; models that have no such method of their own (M2M100) shift labels when they are called with them."""
        shift = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        return {"labels": labels} if shift is None else {"decoder_input_ids": shift(labels=labels)}


class Seq2SeqEngine(Engine):
    """An encoder–decoder behind lm-eval's interface."""

    encoder_decoder = True

    def __init__(self, model: Any, tokenizer: Any, **settings: Any) -> None:
        super().__init__(model, tokenizer, **{**settings, "attention": "plain"})
        self.scorer = Seq2SeqScorer(model, max_length=self.max_length, budget=self.scorer.budget, tree=False)

    def loglikelihood_rolling(self, requests: Sequence[Instance], **_: Any) -> list[float]:
        raise ConfigError("an encoder–decoder has no perplexity of running text", where=f"task {requests[0].task_name}", fix="leave this benchmark out for T5, BART and their like")  # fmt: skip

    def cut(self, request: Request) -> bool:
        return len(request.context) > self.max_length

    def _encoded(self, requests: Sequence[Instance]) -> list[Request]:
        pairs = [spaces_moved(*request.args[:2]) for request in requests]
        contexts = list(dict.fromkeys(context for context, _ in pairs if context))
        tokens = dict(zip(contexts, map(tuple, self._encode_all(contexts)), strict=True))
        ends = self.tokenizer([end for _, end in pairs], add_special_tokens=False)["input_ids"]
        return [
            Request(tokens.get(context, (self.prefix_token_id,)), tuple(end), group=(request.task_name, request.doc_id))
            for request, (context, _), end in zip(requests, pairs, ends, strict=True)
        ]


def _batches(contexts: Sequence[Tokens], budget: int) -> Iterator[list[Tokens]]:
    return _batches_of(contexts, [len(context) for context in contexts], budget)


def _batches_of(rows: Sequence[Any], lengths: Sequence[int], budget: int) -> Iterator[list[Any]]:
    """Rows, the longest first, as many at once as fit when padded; one always fits."""
    start = 0
    while start < len(rows):
        size = max(1, budget // max(lengths[start], 1))
        yield list(rows[start : start + size])
        start += size
