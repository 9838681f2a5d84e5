"""The dev items at every strength of a family: kept answers of the gate where it has them, else scored, one model loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from retain.artifacts import read_scores
from retain.errors import UsageError
from retain.gate import attempts
from retain.gate.config import GatePolicy
from retain.gate.evidence import read_case
from retain.gate.judge import REPAIRABLE, Case, Comparison, comparisons
from retain.gate.pairs import Pairs, retuned
from retain.gate.split import is_dev
from retain.gate.verdict import Verdict
from retain.judge.work import METRIC as WIN_RATE
from retain.repair.candidates import Family
from retain.score.config import TARGET_TASK, ScoreConfig
from retain.score.dial import Dial
from retain.score.preview import DIGEST
from retain.score.run import Run
from retain.score.work import complete

if TYPE_CHECKING:
    from retain.score.lm import Engine


@dataclass(frozen=True)
class Closed:
    """A closed gate that a repair may follow: what it rested on, its policy, its comparisons with dev items set apart, and
    the number of the attempt that a repair would be."""

    case: Case
    policy: GatePolicy
    plans: tuple[Comparison, ...]
    attempt: int

    @property
    def asks_target(self) -> bool:
        return any(plan.target_rule != "none" for plan in self.plans)

    def keep(self, task: str, cluster: tuple[str, ...]) -> Sequence[bool]:
        kept: list[bool] = is_dev(self.policy.seed, task, cluster, self.policy.dev_share).tolist()
        return kept


def closed(verdict: Path, said: Verdict) -> Closed:
    """The evidence of a verdict; UsageError where no repair may follow it."""
    case, policy = read_case(verdict / "evidence.json")
    codes = {reason.code for reason in said.reasons} - {"too_few_items"}
    if policy.on_fail != "repair":
        raise UsageError("this gate set no items apart to choose a repair on", where=str(verdict), got="gate.on_fail: stop", expected="gate.on_fail: repair", fix="gate again with --set gate.on_fail=repair")  # fmt: skip
    if not codes or not codes <= REPAIRABLE:
        raise UsageError("a weaker change does not help here", where=str(verdict), got=", ".join(sorted(codes)) or said.verdict, expected=", ".join(sorted(REPAIRABLE)), fix="train again: see what the report proposes")  # fmt: skip
    if case.repaired or case.attempt >= policy.attempts:
        raise UsageError("these items cannot give another verdict to a repair", where=str(verdict), got=f"attempt {case.attempt} of {policy.attempts}" + (", a repair already" if case.repaired else ""), fix="train again")  # fmt: skip
    # Others may have asked the same items since: the register knows, the verdict does not.
    attempt = attempts.coming(case.asked) if case.asked else case.attempt + 1
    return Closed(case, policy, tuple(comparisons(case, policy)), attempt)


class Sweep:
    """Args:
    scoring: as the gated scores were taken. gate: the closed gate. dial: the candidate in memory. dataset: holds the
        target's rows (None: there is no target). folder: takes the scores of every member. cache: as in the scorer.
    """

    def __init__(self, scoring: ScoreConfig, gate: Closed, dial: Dial, dataset: Path | None, folder: Path, cache: Path | None) -> None:  # fmt: skip
        self.scoring, self.gate, self.dial, self.dataset, self.folder, self.cache = scoring, gate, dial, dataset, folder, cache  # fmt: skip

    def at(self, family: Family, strength: float) -> list[list[Pairs]]:
        """By comparison: the dev items of its tasks with the answers of this member."""
        if family.method == "strength" and strength == 1:
            return [[task for task in plan.dev if self._has(task)] for plan in self.gate.plans]
        items = self._scored(family, strength)
        return [[retuned(task, items) for task in plan.dev if self._has(task)] for plan in self.gate.plans]

    def _has(self, task: Pairs) -> bool:
        """A target that decides nothing is not asked again, and a judge is asked about the chosen member only."""
        return (task.name != TARGET_TASK or self.gate.asks_target) and task.metric != WIN_RATE

    def _scored(self, family: Family, strength: float) -> pa.Table:
        def load() -> "Engine":
            engine = self.dial.at(family.at(strength), family.adapter)
            engine.scorer.budget = run.place.budget  # one that fitted before
            return engine

        run = Run(
            self.scoring, self.dial.model, "candidate", keep=self.gate.keep, variant=family.key(strength), load=load
        )
        scores = self.folder / f"{family.method}-{strength:g}"
        complete(run, scores, self.dataset if self.gate.asks_target else None, self.cache, model_digest=DIGEST)
        return read_scores(scores)[0]
