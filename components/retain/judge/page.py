"""The page of a comparison: who won how often, at what length and price, and pairs to read."""

from collections.abc import Iterator
from typing import Any

from retain.judge.config import JudgeConfig
from retain.judge.work import EVEN, Judged, Outcome
from retain.page import Html, banner, details, esc, page, table

SHOWN = 20
WORDS = {"1": "answer 1", "2": "answer 2", "tie": "tie", "": "no verdict"}


def judge_page(config: JudgeConfig, judged: Judged) -> str:
    """The whole page; all texts are escaped."""
    if not judged.tasks:
        return page("Judge", banner("warn", "Nothing was judged", "judge.tasks is empty: the scores went on as they are."))  # fmt: skip
    body = banner(*_headline(judged)) + _table(judged) + _notes(config, judged) + "".join(_examples(judged))
    return page("Judge", body, summary=sentence(judged))


def sentence(judged: Judged) -> str:
    """One line: each task's win rate with its interval."""
    return "; ".join(f"{name}: win rate {percent(o.win_rate)} ({percent(o.low)} to {percent(o.high)})" for name, o in judged.tasks.items())  # fmt: skip


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _headline(judged: Judged) -> tuple[str, str, str]:
    if any(o.high < EVEN for o in judged.tasks.values()):
        return "bad", "The judge prefers the base", sentence(judged)
    if all(o.low > EVEN for o in judged.tasks.values()):
        return "good", "The judge prefers the candidate", sentence(judged)
    return "warn", "The judge sees no clear difference", sentence(judged)


def _table(judged: Judged) -> str:
    head = ["task", "pairs", "wins", "ties", "losses", "win rate", "95 % interval", "at equal length", "characters, base → candidate", "shown first wins", "both orders agree"]  # fmt: skip
    return table(head, [_row(name, o) for name, o in judged.tasks.items()], numeric=range(1, len(head)))


def _row(name: str, o: Outcome) -> list[object]:
    return [
        name, o.n, o.wins, o.ties, o.losses, percent(o.win_rate), f"{percent(o.low)} – {percent(o.high)}", percent(o.length_controlled),
        f"{o.base_characters:.0f} → {o.candidate_characters:.0f}", percent(o.first_place), percent(o.consistent),
    ]  # fmt: skip


def _notes(config: JudgeConfig, judged: Judged) -> str:
    bill, unreadable = judged.bill, sum(o.unreadable for o in judged.tasks.values())
    return (
        f'<p class="soft">Judge {esc(config.model)} at {esc(config.endpoint)}; told to weigh {esc(config.criteria)}. Each pair was shown in both orders; '
        f"{sum(o.same for o in judged.tasks.values())} pairs of the same words are ties that were not asked about; {unreadable} replies had no verdict and count as ties. "
        f"{bill.asked} requests were sent, {bill.kept} replies were known; cost {bill.cost:.4g} now, {bill.cost_all:.4g} in all.</p>"
    )


def _examples(judged: Judged) -> Iterator[str]:
    """The clearest losses first, then the wins: what a person wants to read."""
    yield "<h2>Pairs</h2>"
    ordered = sorted(judged.examples, key=lambda pair: pair["value"])
    for pair in [*ordered[:SHOWN], *ordered[SHOWN:][: -SHOWN - 1 : -1]]:
        yield _pair(pair)


def _pair(pair: dict[str, Any]) -> str:
    said = [WORDS[word] for word in pair["said"]]
    texts = "".join(f"<h3>{name}</h3><pre>{esc(pair[key])}</pre>" for name, key in (("asked", "question"), ("base", "base"), ("candidate", "candidate")))  # fmt: skip
    orders = f'<p class="soft">base shown first: {esc(said[0])}; candidate shown first: {esc(said[1])}</p>'
    return details(Html(f"{esc(pair['task'])} {esc(pair['doc_id'])}: {pair['value']}"), orders + texts)
