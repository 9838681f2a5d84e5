"""Greedy (or asked-for) generation in batches, with stop texts cut as lm-eval cuts them."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from retain.errors import ConfigError, EnvironmentFault
from retain.score import selfcheck
from retain.score.forward import not_a_number, out_of_memory

if TYPE_CHECKING:
    from retain.score.lm import Engine

DEFAULT_MAX_TOKENS = 256
# Tokens of all rows at their end, in budgets of scoring: their keys and values are held, but they are computed one by one.
BUDGETS = {"cpu": 16, "cuda": 4}
ROWS_AT_MOST = 64


@dataclass(frozen=True)
class Generated:
    text: str
    tokens: int
    truncated: bool


class StopText(StoppingCriteria):
    """True for each row whose new text holds one of the stop texts; looks at as many tokens as the longest can span."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], start: int) -> None:
        self.tokenizer, self.stops, self.start = tokenizer, [stop for stop in stops if stop], start
        spans = [len(tokenizer.encode(stop, add_special_tokens=False)) for stop in self.stops]
        self.look = max(spans, default=0) + 2

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :][:, -self.look :])
        found = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(found, device=input_ids.device, dtype=torch.bool)  # type: ignore[return-value]


class Numbers(LogitsProcessor):
    """Raises where a row's logits are not numbers: a generation would go on with any token."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        bad = scores.isnan().any(dim=-1)
        if bool(bad.any()):
            raise not_a_number(self.names[int(bad.nonzero()[0]) * len(self.names) // len(bad)], "nan")
        return scores


def until(
    engine: "Engine", prompts: Sequence[Sequence[int]], settings: Sequence[dict[str, Any]], done: Callable[[int], None], name: Callable[[int], str],
) -> list[Generated]:  # fmt: skip
    """The answer to each tokenised prompt under lm-eval's generation settings (until, max_gen_toks, do_sample, …); `name` for errors."""
    engine.check_words(prompts, name)
    answers: list[Generated | None] = [None] * len(prompts)
    for members in _alike(settings).values():
        members.sort(key=lambda i: (-len(prompts[i]), list(prompts[i])))
        start = 0
        while start < len(members):
            room = _room(settings[members[start]])
            batch = members[start : start + _rows(engine, prompts[members[start]], room)]
            batch = batch[: _together(engine, [len(prompts[i]) for i in batch], room)]
            try:
                found = _generate(
                    engine, [list(prompts[i]) for i in batch], settings[batch[0]], [name(i) for i in batch]
                )
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                _shrink(engine, batch, error)
                continue
            for i, answer in zip(batch, found, strict=True):
                answers[i] = answer
            done(len(batch))
            start += len(batch)
    return [answer for answer in answers if answer is not None]


def _alike(settings: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = defaultdict(list)
    for i, setting in enumerate(settings):
        groups[json.dumps(setting, sort_keys=True, default=str)].append(i)
    return groups


def _room(setting: dict[str, Any]) -> int:
    return int(normalize_gen_kwargs(setting, DEFAULT_MAX_TOKENS)["max_gen_toks"])


def _rows(engine: "Engine", longest: Sequence[int], room: int) -> int:
    return max(1, min(ROWS_AT_MOST, BUDGETS[engine.device.type] * engine.scorer.budget // (len(longest) + room)))


def _together(engine: "Engine", lengths: list[int], room: int) -> int:
    """How many prompts, the longest first, may share a batch: of one length where the model would see the padding, or while an
    answer of ``room`` tokens may pass the length from which LongRoPE turns all rows by other angles."""
    limit = selfcheck.first_context(engine.model.config.get_text_config()) or selfcheck.UNBOUNDED

    def kind(length: int) -> tuple[bool, int]:
        passes = length <= limit < length + room
        return length > limit, 0 if engine.mixes_lengths and not passes else length

    kinds = [kind(length) for length in lengths] if len(set(lengths)) > 1 else lengths
    return next((i for i, one in enumerate(kinds) if one != kinds[0]), len(kinds))


def _shrink(engine: "Engine", batch: list[int], error: BaseException) -> None:
    if len(batch) == 1:
        raise EnvironmentFault("not enough memory to generate one answer", got=str(error).splitlines()[0]) from error
    engine.scorer.budget //= 2


@torch.inference_mode()
def _generate(engine: "Engine", prompts: list[list[int]], setting: dict[str, Any], names: list[str]) -> list[Generated]:
    kwargs = dict(normalize_gen_kwargs(setting, DEFAULT_MAX_TOKENS))
    stops = handle_stop_sequences(kwargs.pop("until", None), eos=engine.tokenizer.decode(engine.eot_token_id))
    room = int(kwargs.pop("max_gen_toks"))
    longest = engine.max_length - (0 if engine.encoder_decoder else room)
    if longest <= 0:
        raise ConfigError("an answer may be longer than the model's context", got=f"max_gen_toks {room}", expected=f"less than {engine.max_length}")  # fmt: skip
    ids, mask = _padded([prompt[-longest:] for prompt in prompts], engine.tokenizer.pad_token_id, left=not engine.encoder_decoder)  # fmt: skip
    if not kwargs.get("do_sample"):
        kwargs.update(do_sample=False, temperature=None, top_p=None, top_k=None)
    start = 1 if engine.encoder_decoder else ids.shape[1]  # a decoder's output begins with its start token
    out = engine.model.generate(
        input_ids=ids.to(engine.device), attention_mask=mask.to(engine.device), max_new_tokens=room, pad_token_id=engine.tokenizer.pad_token_id,
        logits_processor=LogitsProcessorList([Numbers(names)]), stopping_criteria=StoppingCriteriaList([StopText(engine.tokenizer, stops, start)]), **kwargs,
    )[:, start:].tolist()  # fmt: skip
    return [
        Generated(postprocess_generated_text(engine.tokenizer.decode(tokens, skip_special_tokens=True), stops, None), len(tokens), len(prompt) > longest)
        for tokens, prompt in zip(out, prompts, strict=True)
    ]  # fmt: skip


def _padded(prompts: list[list[int]], pad: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask): a causal model continues at the right end, an encoder counts its positions from the left one."""
    width = max(map(len, prompts))
    empty = [width - len(prompt) for prompt in prompts]
    if left:
        ids = [[pad] * n + prompt for n, prompt in zip(empty, prompts, strict=True)]
        mask = [[0] * n + [1] * len(prompt) for n, prompt in zip(empty, prompts, strict=True)]
    else:
        ids = [prompt + [pad] * n for n, prompt in zip(empty, prompts, strict=True)]
        mask = [[1] * len(prompt) + [0] * n for n, prompt in zip(empty, prompts, strict=True)]
    return torch.tensor(ids), torch.tensor(mask)
