"""What the gate says: plain data, the same in memory, in verdict.json and recomputed from evidence.json."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from retain.errors import ExitCode

SCHEMA = "retain.verdict/1"
Word = Literal["pass", "regressed", "inconclusive"]
Action = Literal["publish", "repair", "stop", "wait"]
Row = dict[str, Any]
EXIT: dict[str, ExitCode] = {"pass": ExitCode.OK, "regressed": ExitCode.REGRESSED, "inconclusive": ExitCode.INCONCLUSIVE}  # fmt: skip


@dataclass(frozen=True)
class Reason:
    """Why the gate is not open. code: macro_margin, benchmark_drop, critical_margin, target_not_improved, target_worse,
    too_few_items, budget_spent, uninformative; equal_digests explains a pass. got, limit in points; items_needed in items
    a benchmark (0: does not apply). role: the baseline it was found against: base;
    in a retraining champion (the model in service) or original (the original base, at the cumulative margins).
    """

    code: str
    benchmark: str = ""
    got: float = 0.0
    limit: float = 0.0
    items_needed: int = 0
    role: str = "base"


@dataclass(frozen=True)
class Verdict:
    """The gate's result; benchmarks, macro and target are against the model in service, or the base where there is none.

    macro, target and the benchmarks' drops are in points. cumulative: the same against the ORIGINAL base in a retraining.
    """

    verdict: Word
    action: Action
    reasons: tuple[Reason, ...]
    candidate_digest: str
    baselines: tuple[Row, ...]
    policy: Row
    policy_digest: str
    attempt: int
    alpha: float
    z: float
    look: int
    items_used_percent: float
    benchmarks: tuple[Row, ...]
    macro: Row
    target: Row
    cumulative: Row = field(default_factory=dict)
    waivers: tuple[Row, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """0, 3, 4; 5 where a pass waits for a person."""
        if self.verdict == "pass" and self.action == "wait":
            return ExitCode.AWAITING_APPROVAL
        return EXIT[self.verdict]

    @property
    def fails_run(self) -> bool:
        """Whether a pipeline run ends red on this verdict (gate.end_run)."""
        return self.verdict != "pass" and self.policy["end_run"] == "red"

    def as_dict(self) -> Row:
        """The content of verdict.json."""
        plain = asdict(self)
        for name in ("reasons", "baselines", "benchmarks", "waivers", "warnings"):
            plain[name] = list(plain[name])
        return {"schema": SCHEMA, "exit_code": int(self.exit_code), **plain}


def from_dict(value: Row) -> Verdict:
    """A verdict as verdict.json holds it."""
    known = {f.name: value[f.name] for f in fields(Verdict)}
    for name in ("baselines", "benchmarks", "waivers", "warnings"):
        known[name] = tuple(known[name])
    known["reasons"] = tuple(Reason(**reason) for reason in known["reasons"])
    return Verdict(**known)
