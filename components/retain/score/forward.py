"""Forward passes over planned rows: log-likelihoods of the scored tokens and nothing else.

Logits exist only where a token is scored (a hook gathers the hidden states before the output layer, so that a model's
own scaling and soft-capping of logits still apply), and the softmax runs in fp32 over small blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from retain.errors import EnvironmentFault, IntegrityError
from retain.score import plan
from retain.score.plan import Plan, Request, Row

Answer = tuple[float, bool]
# Rows of logits whose softmax is taken at once: on a CPU few, so that they stay in the cache.
SOFTMAX_ROWS = {"cpu": 8, "cuda": 64}
# Bytes of logits held at once, of what a batch may score. On a CPU below 32 MiB: larger blocks are fetched from the system anew
# each time by malloc, page by page, which costs a third of the output layer's time.
LOGIT_BYTES = {"cpu": 28 << 20, "cuda": 1 << 30}
SMALLEST_BUDGET = 64


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch has a class for a GPU's, a CPU's allocator and cuBLAS say it in words."""
    words = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


class PrefixLayer(DynamicLayer):
    """Keys and values of the prefix, one row, seen by every row of a batch; nothing is kept of what comes after it."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.dtype, self.device = keys.dtype, keys.device

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        rows = (key_states.shape[0], -1, -1, -1)
        return (torch.cat([self.keys.expand(*rows), key_states], dim=-2), torch.cat([self.values.expand(*rows), value_states], dim=-2))  # fmt: skip


class Scorer:
    """Scores requests on one loaded causal model.

    Args:
        model: a transformers causal language model in eval mode.
        max_length: longest input in tokens.
        budget: tokens in a batch, padding included. Halved (and kept so) when memory runs out.
        tree: False scores every distinct input in a row of its own.
        max_depth: deepest tree row; beyond it rows are plain.
    """

    def __init__(
        self, model: Any, *, max_length: int, budget: int, tree: bool = True, max_depth: int = 1 << 30
    ) -> None:
        self.model, self.max_length, self.tree, self.max_depth = model, max_length, tree, max_depth
        self.device = next(model.parameters()).device
        self.budget = budget
        self.sound = False  # whether this model was seen to keep to a tree's branches and positions (selfcheck)
        row_bytes = model.config.get_text_config().vocab_size * model.dtype.itemsize
        self.scored_budget = max(LOGIT_BYTES[self.device.type] // row_bytes, 1)

    def score(self, requests: Sequence[Request], done: Callable[[int], None] = lambda count: None) -> list[Answer]:
        """(sum of log-probabilities in nats, is it the greedy continuation) of each request; `done` counts requests."""
        while True:
            try:
                return self._score(requests, done)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                done(0)
                self._shrink(error)

    def plan(self, requests: Sequence[Request]) -> Plan:
        return plan.make(
            requests, max_length=self.max_length, budget=self.budget, scored_budget=self.scored_budget, tree=self.tree, max_depth=self.max_depth,
        )  # fmt: skip

    def _shrink(self, error: BaseException) -> None:
        """Half the budget; the caller starts again, so that batches stay a function of items and budget."""
        if self.budget // 2 < SMALLEST_BUDGET:
            raise EnvironmentFault(
                "not enough memory for one item", where=str(self.device), got=str(error).splitlines()[0],
                fix="score on a device with more memory, in bf16, or with a smaller score.max_length",
            ) from error  # fmt: skip
        self.budget //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _score(self, requests: Sequence[Request], done: Callable[[int], None]) -> list[Answer]:
        todo = self.plan(requests)
        answers: list[Answer | None] = [None] * len(requests)
        before = self._prefix(todo.prefix) if todo.prefix else None
        for batch in todo.batches:
            found = self._batch(batch, before if batch[0].after else None)
            for request, answer in found:
                answers[request] = answer
            done(len(found))
        return [answer for answer in answers if answer is not None]

    @torch.inference_mode()
    def score_row(self, row: Row) -> list[tuple[int, Answer]]:
        """(request, answer) of everything scored in one row, whatever the budget."""
        return self._batch([row], None)

    def _prefix(self, tokens: Sequence[int]) -> Cache:
        from transformers import DynamicCache

        cache = DynamicCache()
        with gathered(self.model, torch.zeros(1, dtype=torch.long, device=self.device)):
            self.model(
                input_ids=torch.tensor([list(tokens)], device=self.device), past_key_values=cache, use_cache=True
            )
        return Cache(layers=[PrefixLayer(layer.keys, layer.values) for layer in cache.layers])

    def _batch(self, rows: list[Row], before: Cache | None) -> list[tuple[int, Answer]]:
        width = max(len(row.tokens) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row.tokens)] = torch.tensor(row.tokens)
        places, index = _places(rows, width)
        with gathered(self.model, torch.tensor(places, device=self.device)):
            logits = self.model(
                input_ids=ids.to(self.device), use_cache=False, **self._shape(rows, width, before)
            ).logits[0]
        return _answers(rows, index, width, logits)

    def _shape(self, rows: list[Row], width: int, before: Cache | None) -> dict[str, Any]:
        """Mask and positions. Chains need none: right padding is never seen by what stands before it."""
        if all(row.is_chain for row in rows):
            return {}
        after = rows[0].after
        positions = torch.zeros(len(rows), width, dtype=torch.long)
        sees = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)
        for i, row in enumerate(rows):
            n = len(row.tokens)
            positions[i, :n] = torch.tensor(row.depths)
            sees[i, :n, :n] = torch.from_numpy(row.sees())
        sees = torch.cat([torch.ones(len(rows), width, after, dtype=torch.bool), sees], dim=2)
        mask = torch.zeros(sees.shape, dtype=self.model.dtype).masked_fill_(~sees, torch.finfo(self.model.dtype).min)
        shape = {"attention_mask": mask[:, None].to(self.device), "position_ids": positions.to(self.device)}
        return shape if before is None else {**shape, "past_key_values": before}


@contextmanager
def gathered(model: Any, places: torch.Tensor) -> Iterator[None]:
    """Inside, the model's output layer sees only the flat positions `places`: logits come out as [1, len(places), V]."""

    def pick(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1])[places][None], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def _places(rows: list[Row], width: int) -> tuple[list[int], dict[int, int]]:
    """Flat positions of the scored nodes in a batch, each once, and flat position → its row in the logits."""
    places = sorted({i * width + node for i, row in enumerate(rows) for _, nodes, _ in row.scored for node in nodes})
    return places, {place: k for k, place in enumerate(places)}


def _answers(rows: list[Row], index: dict[int, int], width: int, logits: torch.Tensor) -> list[tuple[int, Answer]]:
    asked = [(request, [index[i * width + node] for node in nodes], targets) for i, row in enumerate(rows) for request, nodes, targets in row.scored]  # fmt: skip
    at = torch.tensor([k for _, ks, _ in asked for k in ks], device=logits.device)
    tokens = torch.tensor([t for _, _, targets in asked for t in targets], device=logits.device)
    highest, totals = _normalisers(logits)
    own = logits[at, tokens].float()
    values, tops = (own - totals[at]).tolist(), (own == highest[at]).tolist()
    found, start = [], 0
    for request, ks, targets in asked:
        end = start + len(ks)
        found.append((request, (sum(values[start:end]), all(tops[start:end]) and _is_argmax(logits, ks, targets))))
        start = end
    return found


def _normalisers(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(highest logit, log of the sum of exponentials) of each row of `logits` [n, V] in fp32, a block at a time."""
    highest, totals = [], []
    blocks = logits.split(SOFTMAX_ROWS[logits.device.type])
    room = torch.empty(blocks[0].shape, dtype=torch.float32, device=logits.device)
    for block in blocks:
        wide = block if block.dtype == torch.float32 else room[: len(block)].copy_(block)
        highest.append(wide.amax(dim=-1))
        totals.append(highest[-1] - wide.log_softmax(dim=-1).amax(dim=-1))
    return torch.cat(highest), torch.cat(totals)


def _is_argmax(logits: torch.Tensor, at: list[int], tokens: tuple[int, ...]) -> bool:
    """All tokens hold the highest logit; where several share it, the lowest one counts, as argmax has it (slow, so asked last)."""
    return bool((logits[at].argmax(dim=-1) == torch.tensor(tokens, device=logits.device)).all())


def check_finite(answers: Sequence[Answer], name: Callable[[int], str]) -> None:
    for i, (value, _) in enumerate(answers):
        if value != value or value in (float("inf"), float("-inf")):
            raise not_a_number(name(i), value)


def not_a_number(where: str, got: object) -> IntegrityError:
    return IntegrityError(
        "the model's output is not a number", where=where, got=got, expected="finite log-probabilities",
        fix="the weights are damaged or overflow in this precision: look for NaN in them, or score with dtype bf16 or fp32",
    )  # fmt: skip
