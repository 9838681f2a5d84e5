"""The engine as lm-eval's `LM`: every task, metric and filter of lm-eval works on it unchanged.

Texts become tokens by lm-eval's own rules (api/model.py `_encode_pair`, models/huggingface.py `tok_encode`, v0.4.13),
so that the same numbers come out; what is asked once is computed once (plan.py, forward.py).
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import has_bos_prefix, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from retain.errors import ConfigError, DataRefused, IntegrityError
from retain.score import forward, generate, selfcheck
from retain.score.plan import Request


class Engine(LM):
    """A loaded causal model behind lm-eval's interface.

    Args:
        model: a transformers causal language model in eval mode, on its device.
        tokenizer: its tokenizer.
        max_length: context length in tokens; 0 takes the model's own.
        batch_tokens: tokens in a batch.
        attention: `auto` scores an item's choices in one tree where a self-check agrees, `plain` never does.
        known: tokens of texts, filled here; handed on from one model to the next of the same tokenizer, each text is tokenised once.
        done: called with the number of requests finished, for a progress bar.
    """

    encoder_decoder = False

    def __init__(
        self, model: Any, tokenizer: Any, *, max_length: int = 0, batch_tokens: int = 1024, attention: str = "auto",
        template_kwargs: Mapping[str, Any] | None = None, known: dict[str, list[int]] | None = None,
        done: Callable[[int], None] = lambda count: None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model, self.tokenizer, self.done = model, tokenizer, done
        self.template_kwargs, self._known = dict(template_kwargs or {}), {} if known is None else known
        self.truncated: set[Hashable] = set()  # what lost its left end, by (task, document)
        self._device = next(model.parameters()).device
        self.max_length = max_length or resolve_max_length(model.config, tokenizer)
        self.words = model.get_input_embeddings().weight.shape[0]
        depth = selfcheck.deepest_tree(model.config)
        tree = attention == "auto" and depth > 0
        self.scorer = forward.Scorer(model, max_length=self.max_length, budget=batch_tokens, tree=tree, max_depth=depth)
        self._checked: dict[bool, int] = {}

    # ------------------------------------------------------------------ lm-eval's three questions
    def loglikelihood(self, requests: Sequence[Instance], **_: Any) -> list[tuple[float, bool]]:
        asked = self._encoded(requests)
        return self._scored(asked, lambda i: f"task {requests[i].task_name}, document {requests[i].doc_id}")

    def loglikelihood_rolling(self, requests: Sequence[Instance], **_: Any) -> list[float]:
        parts = [self._windows(self.tok_encode(request.args[0]), i) for i, request in enumerate(requests)]
        windows, owner = [w for part in parts for w in part], [i for i, part in enumerate(parts) for _ in part]
        answers = self._scored(windows, lambda k: f"task {requests[owner[k]].task_name}, document {requests[owner[k]].doc_id}")  # fmt: skip
        totals = [0.0] * len(requests)
        for i, (value, _greedy) in zip(owner, answers, strict=True):
            totals[i] += value
        return totals

    def generate_until(self, requests: Sequence[Instance], **_: Any) -> list[str]:
        prompts = [self.tok_encode(request.args[0]) for request in requests]
        found = generate.until(
            self, prompts, [request.args[1] for request in requests], self.done,
            lambda i: f"task {requests[i].task_name}, document {requests[i].doc_id}",
        )  # fmt: skip
        for request, answer in zip(requests, found, strict=True):
            if answer.truncated:
                self.truncated.add((request.task_name, request.doc_id))
        return [answer.text for answer in found]

    @cached_property
    def mixes_lengths(self) -> bool:
        """Whether prompts of several lengths may be continued in one batch: an encoder's are padded on the right."""
        return self.encoder_decoder or selfcheck.pads_unseen(self.model)

    # ------------------------------------------------------------------ tokens
    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before an empty context: the begin-of-text token, or where there is none the end-of-text token."""
        bos = self.tokenizer.bos_token_id
        return int(bos if bos is not None else self.tokenizer.eos_token_id)

    def tok_encode(self, text: str) -> list[int]:
        return self._encode_all([text])[0]

    def _encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text with the tokenizer's own special tokens, except where the text brings its first one along."""
        begin = self.tokenizer.decode(self.prefix_token_id)
        fresh = [text for text in dict.fromkeys(texts) if text not in self._known]
        bare = [has_bos_prefix(text, begin) for text in fresh]
        for special in (True, False):
            chosen = [text for text, is_bare in zip(fresh, bare, strict=True) if is_bare is not special]
            if chosen:
                self._known.update(zip(chosen, self.tokenizer(chosen, add_special_tokens=special)["input_ids"], strict=True))  # fmt: skip
        return [self._known[text] for text in texts]

    def _encoded(self, requests: Sequence[Instance]) -> list[Request]:
        """Context and continuation tokens: both together minus the context alone, trailing spaces going to the continuation."""
        pairs = [spaces_moved(*request.args[:2]) for request in requests]
        texts = list(dict.fromkeys(text for context, continuation in pairs if context for text in (context, context + continuation)))  # fmt: skip
        tokens = dict(zip(texts, self._encode_all(texts), strict=True))
        return [
            Request(*self._split(context, continuation, tokens), group=(request.task_name, request.doc_id))
            for request, (context, continuation) in zip(requests, pairs, strict=True)
        ]

    def _split(
        self, context: str, continuation: str, tokens: dict[str, list[int]]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if context:
            before = tokens[context]
            return tuple(before), tuple(tokens[context + continuation][len(before) :])
        alone = self.tokenizer.encode(continuation, add_special_tokens=False)
        if alone and alone[0] == self.prefix_token_id:
            return tuple(alone[:1]), tuple(alone[1:])
        return (self.prefix_token_id,), tuple(alone)

    # ------------------------------------------------------------------ scoring
    def score_tokens(self, requests: Sequence[Request], name: Callable[[int], str]) -> list[tuple[float, bool]]:
        return self._scored(list(requests), name)

    def check_words(self, texts: Iterable[Sequence[int]], name: Callable[[int], str]) -> None:
        """Refuse tokens the embedding has no row for: a GPU would only say that something, somewhere, was out of range."""
        if len(self.tokenizer) <= self.words:
            return
        for i, tokens in enumerate(texts):
            if max(tokens, default=0) >= self.words:
                raise IntegrityError(
                    "the tokenizer writes a token that the model has no weights for", where=name(i), got=self.tokenizer.convert_ids_to_tokens(max(tokens)),
                    expected=f"one of the model's {self.words} tokens", fix="keep tokenizer and weights together: resize the embedding, or take the tokenizer the model was made with",
                )  # fmt: skip

    def _scored(self, requests: list[Request], name: Callable[[int], str]) -> list[tuple[float, bool]]:
        self.check_words((request.context + request.continuation for request in requests), name)
        for i, request in enumerate(requests):
            if not 0 < len(request.continuation) <= self.max_length:
                raise DataRefused(
                    "an answer has no tokens, or more than the model can read", where=name(i),
                    got=f"{len(request.continuation)} tokens", expected=f"1 to {self.max_length}",
                )  # fmt: skip
            if self.cut(request):
                self.truncated.add(request.group)
        self._check(requests)
        answers = self.scorer.score(requests, self.done)
        forward.check_finite(answers, name)
        return answers

    def cut(self, request: Request) -> bool:
        """Whether a request loses its left end."""
        return request.truncated(self.max_length)

    def _windows(self, tokens: Sequence[int], owner: int) -> list[Request]:
        """A text as lm-eval's rolling windows: every token predicted once, with as much context as fits."""
        parts = map(
            make_disjoint_window, get_rolling_token_windows(list(tokens), self.prefix_token_id, self.max_length, 1)
        )
        return [Request(tuple(before), tuple(after), (owner, k)) for k, (before, after) in enumerate(parts)]

    def _check(self, requests: Sequence[Request]) -> None:
        """The self-check, without and with a prefix (fixed few-shot examples), when first needed and again for longer items:
        a window that no configuration confesses shows only beyond its length."""
        if not self.scorer.tree or not requests:
            return
        kind = bool(self.scorer.plan(requests).prefix)
        longest = max(len(request.inputs(self.max_length)) for request in requests)
        if longest > self._checked.get(kind, 0):
            self.scorer.tree = selfcheck.agrees(self.scorer, requests)
            self._checked[kind] = longest

    # ------------------------------------------------------------------ chat template
    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def has_chat_template(self) -> bool:
        return bool(self.tokenizer.chat_template)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not self.has_chat_template:
            raise ConfigError(
                "this model has no chat template", where=str(self.tokenizer.name_or_path),
                fix="set score.apply_chat_template: false, or put a chat_template.jinja into the model folder",
            )  # fmt: skip
        return str(self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt, **self.template_kwargs,
        ))  # fmt: skip

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.tokenizer.chat_template if chat_template else None


def spaces_moved(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return (bare, context[len(bare) :] + continuation) if bare else (context, continuation)
