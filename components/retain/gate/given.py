"""Which waivers were given for a candidate: those in the register, and those in a file (a CI job has no register)."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retain.artifacts import read_json, write_json
from retain.config import nearest
from retain.errors import ConfigError, UsageError
from retain.gate.register import Register
from retain.gate.waivers import WAIVABLE, Waiver, verified

KIND, SCHEMA = "waiver", "retain.waivers/1"


def given(candidate: str, public: Sequence[str], file: Path | None = None) -> tuple[Waiver, ...]:
    """The waivers of the model with digest ``candidate``, each signed by one of ``public``; without keys nobody may waive."""
    if not public:
        if file is not None:
            raise ConfigError("the policy names nobody who may waive", where="gate.waiver_keys", got="no key", fix="add the public key that retain waive printed")  # fmt: skip
        return ()
    found = [Waiver(**_known(entry)) for entry in Register(KIND).find(candidate_digest=candidate)]
    found += [waiver for waiver in (read(file) if file else ()) if waiver.candidate_digest == candidate]
    return verified(dict.fromkeys(found), public)


def _known(entry: Mapping[str, str]) -> dict[str, str]:
    return {name: entry[name] for name in Waiver.__dataclass_fields__}


def read(file: Path) -> tuple[Waiver, ...]:
    return tuple(Waiver(**_known(row)) for row in read_json(file, schema=SCHEMA)["waivers"])


def record(waiver: Waiver, file: Path | None = None) -> None:
    """Put a waiver into the register, and at the end of ``file`` where one is named."""
    plain = asdict(waiver)
    Register(KIND).add(f"waiver {waiver.benchmark}", plain)
    if file is not None:
        before = list(read(file)) if file.is_file() else []
        write_json(file, {"schema": SCHEMA, "waivers": [asdict(old) for old in before] + [plain]})


def check_use(verdict: Mapping[str, Any], benchmark: str) -> list[str]:
    """What stays in the way although ``benchmark`` is waived (codes of reasons); UsageError where a waiver would lift nothing."""
    mine = [r for r in verdict["reasons"] if r["benchmark"] == benchmark and r["code"] in WAIVABLE]
    if not mine:
        names = sorted({r["benchmark"] for r in verdict["reasons"] if r["code"] in WAIVABLE})
        near = nearest(benchmark, names)
        raise UsageError(
            "there is nothing to waive for this benchmark", got=benchmark, expected=", ".join(names) or "a verdict closed by a single benchmark's drop",
            fix=f"did you mean '{near}'?" if near else "the macro average and the target cannot be waived",
        )  # fmt: skip
    return sorted({r["code"] for r in verdict["reasons"] if r not in mine and r["code"] != "too_few_items"})
