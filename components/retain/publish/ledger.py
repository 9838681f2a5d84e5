"""The ledger of a registered model: every published version carries its own line, so that no file can be lost.

The generation is the version's number; the arithmetic is in :mod:`retain.gate.ledger`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from retain.artifacts import write_json
from retain.gate.ledger import Entry, append, as_rows, balance, entry, from_rows
from retain.publish.versions import open_registry

LEDGER, SCHEMA = "retain.ledger", "retain.ledger/1"


def tag(verdict: Mapping[str, Any]) -> dict[str, str]:
    """The tag that a published version carries: what it lost against the original base."""
    return {LEDGER: json.dumps(as_rows([entry(verdict, 0)])[0])}


def entries(name: str) -> tuple[Entry, ...]:
    """The lines of all published versions, oldest first."""
    kept = [v for v in open_registry(name).all() if LEDGER in v.tags]
    return tuple(replace(from_rows([json.loads(v.tags[LEDGER])])[0], generation=v.version) for v in kept)


def write(path: Path, name: str, verdict: Mapping[str, Any]) -> None:
    """ledger.json: the generations published under ``name`` and, as the last one, the candidate of ``verdict``."""
    before = [e for e in entries(name) if e.candidate_digest != verdict["candidate_digest"]]
    lines = append(before, entry(verdict, before[-1].generation + 1 if before else 1))
    write_json(path, {"schema": SCHEMA, "name": name, "entries": as_rows(lines), "balance": asdict(balance(lines))})
