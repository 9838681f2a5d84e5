"""Waivers: a named person lifts benchmark_drop or critical_margin of ONE benchmark for ONE candidate until a day.

Never the macro margin, the target, integrity or data. Signed with a key file (HMAC-SHA256 over the canonical JSON), or
with any other signer that has the two functions of :class:`Signer`.
"""

import hmac
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Protocol

from retain.digest import canonical_json
from retain.errors import ConfigError, IntegrityError, UsageError

MIN_KEY_BYTES = 16


class Signer(Protocol):
    """What signs models may sign waivers: bytes in, text out."""

    def sign(self, data: bytes) -> str: ...

    def verify(self, data: bytes, signature: str) -> bool: ...


class KeyFile:
    """A shared secret in a file of at least 16 bytes (a Kubernetes secret mounted as a file)."""

    def __init__(self, path: Path) -> None:
        key = path.read_bytes().strip() if path.is_file() else b""
        if len(key) < MIN_KEY_BYTES:
            raise ConfigError("the key that signs waivers is missing or too short", where=str(path), got=f"{len(key)} bytes", expected=f"at least {MIN_KEY_BYTES}", fix="head -c 32 /dev/urandom | base64 > KEY")  # fmt: skip
        self._key = key

    def sign(self, data: bytes) -> str:
        return "hmac-sha256:" + hmac.new(self._key, data, "sha256").hexdigest()

    def verify(self, data: bytes, signature: str) -> bool:
        return hmac.compare_digest(self.sign(data), signature)


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


def waive(
    benchmark: str, candidate_digest: str, *, who: str, why: str, until: str, today: str, signer: Signer
) -> Waiver:
    """A signed waiver; every part is needed, and ``until`` is today or later."""
    draft = Waiver(benchmark.strip(), candidate_digest, who.strip(), why.strip(), until)
    empty = [name for name, value in asdict(draft).items() if not value and name != "signature"]
    if empty:
        raise UsageError("a waiver says who, why, until when, for which benchmark and which model", got=f"nothing for {', '.join(empty)}")  # fmt: skip
    if _day(until) < _day(today):
        raise UsageError("this waiver has expired before it was given", got=until, expected=f"{today} or later")
    return Waiver(**{**asdict(draft), "signature": signer.sign(draft.body())})


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError("not a day", got=text, expected="YYYY-MM-DD") from None


def verified(waivers: Iterable[Waiver], signer: Signer) -> tuple[Waiver, ...]:
    """The waivers, all with a good signature; IntegrityError (6) for one that was changed or signed with another key."""
    checked = tuple(waivers)
    for waiver in checked:
        if not signer.verify(waiver.body(), waiver.signature):
            raise IntegrityError("a waiver's signature does not fit", where=f"waiver of {waiver.benchmark} by {waiver.who}", got=waiver.signature or "none", fix="give the waiver again: retain waive")  # fmt: skip
        _day(waiver.until)
    return checked
