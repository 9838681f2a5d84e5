"""Which verdict on the same decision items this is: every further one spends less alpha, and a cap ends them.

An attempt is a verdict on the decision items for the same target data, baselines and items, counted in the register and
not in a report, so that no run can forget the ones before it. The very same candidate again is the same attempt; deciding
again from an evidence file is none.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from retain import digest, tracking
from retain.gate.config import GatePolicy
from retain.gate.judge import Case
from retain.gate.pairs import Scores
from retain.gate.register import Register
from retain.gate.split import is_dev
from retain.locks import locked

KIND = "attempt"


@dataclass(frozen=True)
class Question:
    """What the same items are asked again: all four equal means that one more candidate is one more attempt."""

    family: str
    data: str
    baselines: str
    items: str

    @property
    def key(self) -> str:
        return digest.of_json(asdict(self))


def question(base: Scores, case: Case, policy: GatePolicy, data: str) -> Question:
    """base: the baseline's scores with ALL items, also where a candidate's scoring ended early. data: target data digest."""
    baselines = " ".join(sorted(against.digest for against in case.baselines))
    return Question(policy.family, data, baselines, decision_items(base, policy))


def decision_items(base: Scores, policy: GatePolicy) -> str:
    """Digest of (task, doc_hash) of the items a verdict rests on, in any order; advisory benchmarks and dev items are none."""
    table, meta = base
    chosen = [
        [task, doc]
        for task, facts in sorted(meta["tasks"].items())
        if _decides(task, policy)
        for doc in _documents(table, task, str(facts["metric"]), policy)
    ]
    return digest.of_json(chosen)


def _decides(task: str, policy: GatePolicy) -> bool:
    if task == policy.target.name:
        return policy.target.rule != "none"
    return policy.rule_for(task).tier != "advisory"


def _documents(table: pa.Table, task: str, metric: str, policy: GatePolicy) -> list[str]:
    rows = table.filter(pc.and_(pc.equal(table["task"], task), pc.equal(table["metric"], metric)))
    documents = np.array(rows["doc_hash"].to_pylist(), dtype=object)
    if policy.on_fail == "repair":
        documents = documents[~is_dev(policy.seed, task, tuple(rows["cluster"].to_pylist()), policy.dev_share)]
    return sorted(documents)


def take(asked: Question, candidate: str) -> int:
    """The number of this candidate's verdict, from 1; it is in the register when this returns.

    Candidates that ask at the same moment on two machines may both get the higher number: too little alpha is spent then,
    never too much. Raises EnvironmentFault (8): without the register nothing is decided.
    """
    with locked(tracking.home() / "attempts.lock"):
        register = Register(KIND)
        found = register.find(attempt_key=asked.key)
        mine = next((entry for entry in found if entry["candidate_digest"] == candidate), None)
        if mine and "attempt" in mine:
            return int(mine["attempt"])
        identity = mine["id"] if mine else _add(register, asked, candidate)
        number = len({entry["candidate_digest"] for entry in register.find(attempt_key=asked.key)})
        register.mark(identity, attempt=str(number))
    return number


def coming(key: str) -> int:
    """The number that one more candidate's verdict on the question ``key`` would have; nothing is written. EnvironmentFault as :func:`take`."""
    return len({entry["candidate_digest"] for entry in Register(KIND).find(attempt_key=key)}) + 1


def _add(register: Register, asked: Question, candidate: str) -> str:
    values = {"attempt_key": asked.key, "candidate_digest": candidate, **{f"asked_{k}": v for k, v in asdict(asked).items()}}  # fmt: skip
    return register.add(f"attempt {candidate.removeprefix('sha256:')[:12]}", values)
