"""Scoring that ends when the rule has decided: what the scorer asks after each round, and how the gate reads what it left.

The scorer does not know which attempt its candidate will be, so it asks with the last attempt's alpha: what passes there
passes at any earlier attempt too, and the rounds it goes on for are judged with the verdict's own alpha at the end. So a
verdict's chance of a false pass is never above that of the planned looks themselves.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from retain.errors import IntegrityError, PolicyError
from retain.gate.config import GatePolicy
from retain.gate.judge import judge_case, make_case
from retain.gate.pairs import Scores
from retain.gate.split import look_of


def decider(policy: GatePolicy, baseline: Scores, champion: Scores | None = None) -> Callable[[int, Scores], bool]:
    """decided(look, candidate's scores so far): whether no further item can change what the gate will say."""

    if champion and champion[1]["model_digest"] == baseline[1]["model_digest"]:
        champion = None  # nobody is in service yet

    def decided(look: int, candidate: Scores) -> bool:
        if set(candidate[1]["tasks"]) != set(baseline[1]["tasks"]):
            return False  # a small benchmark whose items stand in later rounds
        served = cut(champion, policy, look) if champion else None
        case = make_case(cut(baseline, policy, look), candidate, policy, champion=served, attempt=policy.attempts)
        try:
            return judge_case(replace(case, partial=look), policy).verdict != "inconclusive"
        except PolicyError:  # too few clusters for a look; the gate itself says what cannot be judged at all
            return False

    return decided


def cut(scores: Scores, policy: GatePolicy, look: int) -> Scores:
    """The items of the first ``look`` looks only."""
    table, meta = scores
    kept = np.zeros(table.num_rows, dtype=bool)
    names = np.array(table["task"].to_pylist(), dtype=object)
    clusters = np.array(table["cluster"].to_pylist(), dtype=object)
    for task in meta["tasks"]:
        mine = np.flatnonzero(names == task)
        kept[mine] = look_of(policy.seed, task, tuple(clusters[mine]), policy.looks) <= look
    return table.filter(pa.array(kept)), meta


def partial_look(candidate: Scores, policy: GatePolicy) -> int:
    """The look at which the candidate's scoring ended; 0: all items are there. IntegrityError for other looks than the policy's."""
    rounds = candidate[1].get("rounds", {"of": 1, "done": 1, "seed": 0})
    if rounds["done"] == rounds["of"]:
        return 0
    if (rounds["of"], rounds["seed"]) != (policy.looks, policy.seed):
        raise IntegrityError(
            "the candidate's scoring ended early, by other looks than the policy's", got=f"{rounds['of']} looks, seed {rounds['seed']}",
            expected=f"{policy.looks} looks, seed {policy.seed}", fix="score the candidate again with this policy",
        )  # fmt: skip
    return int(rounds["done"])
