"""Ask the judge about every pair in both orders, several at once, each reply kept as soon as it is there."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from retain.endpoint import Endpoint, Message, Reply
from retain.errors import UsageError
from retain.judge import games
from retain.judge.config import JudgeConfig
from retain.judge.games import Pair
from retain.judge.replies import Replies
from retain.progress import Progress


@dataclass(frozen=True)
class Bill:
    """Requests sent now and replies known from before, the tokens of the new ones, and prices in the user's currency.

    cost: of the new requests; cost_all: what the same comparison costs without kept replies.
    """

    asked: int = 0
    kept: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    cost_all: float = 0.0


def play(config: JudgeConfig, endpoint: Endpoint, replies: Replies, pairs: Sequence[Pair]) -> tuple[list[tuple[str, str]], Bill]:  # fmt: skip
    """(each pair's verdicts, base shown first and candidate shown first; the bill). Answers in the same words are ties."""
    asked = [games.messages(p, config.criteria, candidate_first=first) for p in pairs if not p.same for first in (False, True)]  # fmt: skip
    said, bill = _all(config, endpoint, replies, asked)
    words = iter([games.verdict(reply.text) for reply in said])
    return [("tie", "tie") if pair.same else (next(words), next(words)) for pair in pairs], bill


def _all(config: JudgeConfig, endpoint: Endpoint, replies: Replies, asked: Sequence[Sequence[Message]]) -> tuple[list[Reply], Bill]:  # fmt: skip
    keys = [replies.key(config.endpoint, endpoint.body(messages)) for messages in asked]
    missing = {key: messages for key, messages in zip(keys, asked, strict=True) if replies.get(key) is None}
    new: list[Reply] = []
    with Progress("judge", total=len(asked), unit="games") as progress:
        progress.advance(len(asked) - len(missing))
        with ThreadPoolExecutor(config.workers) as pool:
            try:
                waiting = [pool.submit(_kept, endpoint, replies, key, messages) for key, messages in missing.items()]
                for one in as_completed(waiting):
                    new.append(one.result())
                    progress.advance(note=_shown(config, new))
                    _within(config, new)
            finally:  # on an error or Ctrl-C: what has not begun never does, and nobody waits to try again
                endpoint.stop()
                pool.shutdown(wait=True, cancel_futures=True)
    every = [found for key in keys if (found := replies.get(key)) is not None]
    return every, _bill(config, new, every)


def _kept(endpoint: Endpoint, replies: Replies, key: str, messages: Sequence[Message]) -> Reply:
    reply = endpoint.ask(messages)
    replies.put(key, reply)
    return reply


def _shown(config: JudgeConfig, new: Sequence[Reply]) -> str:
    return f"cost {_cost(config, new):.4g}" if config.price_per_1k_input or config.price_per_1k_output else ""


def _cost(config: JudgeConfig, replies: Sequence[Reply]) -> float:
    return config.cost(sum(r.tokens_in for r in replies), sum(r.tokens_out for r in replies))


def _within(config: JudgeConfig, new: Sequence[Reply]) -> None:
    spent = _cost(config, new)
    if config.max_cost and spent > config.max_cost:
        raise UsageError("judging has cost more than it may", got=f"{spent:.4g}", expected=f"judge.max_cost {config.max_cost:g}", fix="raise judge.max_cost and start again (what was answered is kept), or judge fewer questions with judge.limit")  # fmt: skip


def _bill(config: JudgeConfig, new: Sequence[Reply], every: Sequence[Reply]) -> Bill:
    return Bill(
        asked=len(new), kept=len(every) - len(new), tokens_in=sum(r.tokens_in for r in new), tokens_out=sum(r.tokens_out for r in new),
        cost=_cost(config, new), cost_all=_cost(config, every),
    )  # fmt: skip
