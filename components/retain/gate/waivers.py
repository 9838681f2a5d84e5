"""Waivers: a named person lifts benchmark_drop or critical_margin of ONE benchmark for ONE candidate until a day.

Never the macro margin, the target, integrity or data. Signed with the same kind of key as the models; the policy names the
public keys of those who may waive (gate.waiver_keys).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

from retain.digest import canonical_json
from retain.errors import IntegrityError, UsageError
from retain.publish import keys

WAIVABLE = {"benchmark_drop", "critical_margin"}


@dataclass(frozen=True)
class Waiver:
    """benchmark: a task name. candidate_digest: the model it was given for. until: the last day it holds, ISO."""

    benchmark: str
    candidate_digest: str
    who: str
    why: str
    until: str
    signature: str = ""

    def body(self) -> bytes:
        plain = asdict(self)
        del plain["signature"]
        return canonical_json(plain).encode("utf-8", "surrogatepass")

    def holds(self, candidate_digest: str, today: str) -> bool:
        return self.candidate_digest == candidate_digest and today <= self.until


def waive(benchmark: str, candidate_digest: str, *, who: str, why: str, until: str, today: str, key: Path) -> Waiver:
    """A waiver signed with the private key in ``key``; every part is needed, and ``until`` is today or later."""
    draft = Waiver(benchmark.strip(), candidate_digest, who.strip(), why.strip(), until)
    empty = [name for name, value in asdict(draft).items() if not value and name != "signature"]
    if empty:
        raise UsageError("a waiver says who, why, until when, for which benchmark and which model", got=f"nothing for {', '.join(empty)}")  # fmt: skip
    if _day(until) < _day(today):
        raise UsageError("this waiver has expired before it was given", got=until, expected=f"{today} or later")
    return Waiver(**{**asdict(draft), "signature": keys.sign(draft.body(), key)})


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError("not a day", got=text, expected="YYYY-MM-DD") from None


def verified(waivers: Iterable[Waiver], public: Sequence[str]) -> tuple[Waiver, ...]:
    """The waivers, all signed by one of the ``public`` keys; IntegrityError (6) for one that was changed or is not."""
    checked = tuple(waivers)
    for waiver in checked:
        if not any(keys.holds(waiver.body(), waiver.signature, key) for key in public):
            raise IntegrityError(
                "a waiver's signature does not fit", where=f"waiver of {waiver.benchmark} by {waiver.who}", got=waiver.signature or "none",
                expected=f"one of the {len(public)} keys of gate.waiver_keys", fix="give the waiver again: retain waive",
            )  # fmt: skip
        _day(waiver.until)
    return checked
