"""What is done with published versions: pull, promote, roll back, look at the history and the lineage."""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from retain import digest, uris
from retain.artifacts import check_writable
from retain.errors import EnvironmentFault, IntegrityError, UsageError
from retain.publish import lineage as lines
from retain.publish import signing, verdicts
from retain.publish.stores import compare
from retain.publish.versions import BASELINES, CHAMPION, LINEAGE, VERDICT, Version, open_registry

PREVIOUS = "retain.previous_champion"
HARMLESS = (".safetensors", ".gguf", ".json", ".jinja", ".txt", ".model", ".md", ".sig")


@dataclass(frozen=True)
class Pulled:
    folder: Path
    version: int
    digest: str
    signed: bool


def pull(name: str, which: str, folder: Path, *, public_key: Path | None = None) -> Pulled:
    """The files of a version (number, alias or digest) into ``folder``, which appears whole or not at all.

    Raises IntegrityError where the digest is not the registered one, a file could run code, or (with ``public_key``) the
    signature does not hold.
    """
    version = open_registry(name).pick(which)
    check_writable(folder.parent)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder.parent) as aside:
        found = uris.fetch(version.source, Path(aside))
        refuse_code(found)
        files = digest.model_manifest(found)
        if digest.of_manifest(files) != version.digest:
            raise IntegrityError("the store gave other files than were registered", where=uris.without_secrets(version.source), got=digest.of_manifest(files), expected=version.digest, fix="publish the model again")  # fmt: skip
        if public_key:
            signing.verify(found, files, public_key)
        _put(found, folder, files)
    return Pulled(folder, version.version, version.digest, (folder / signing.SIGNATURE).is_file())


def _put(found: Path, folder: Path, files: Mapping[str, str]) -> None:
    """A copy of ``found`` that appears whole as ``folder``, in place of what stood there."""
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        shutil.copytree(found, partial)
        compare(files, digest.model_manifest(partial), str(folder))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except OSError as error:  # copytree collects the faults of many files into one
        raise EnvironmentFault("the model could not be copied to its folder", where=str(folder), got=error.strerror or str(error)[:200], fix="free some space or choose another folder") from error  # fmt: skip
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_code(folder: Path) -> None:
    """IntegrityError where a model folder holds a pickle or a program."""
    odd = sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix not in HARMLESS)
    if odd:
        raise IntegrityError("a published model holds files that could run code", where=str(folder), got=", ".join(odd[:5]), expected=" ".join(HARMLESS))  # fmt: skip


def promote(name: str, which: str = "candidate", *, verdict: Path | None = None) -> Version:
    """Make a version the champion; it must have passed against the CURRENT one.

    ``verdict``: a newer verdict than the one it was published with (the champion has changed since). Raises IntegrityError
    where that comparison is missing; the alias is moved last.
    """
    registry = open_registry(name)
    version, champion = registry.pick(which), registry.by_alias(CHAMPION)
    said = verdicts.read(verdict) if verdict else _published_verdict(version)
    if verdict:
        verdicts.check(said, version.digest)
    verdicts.check_champion(said, champion.digest if champion else "", needed=True)
    if champion is None or champion.version != version.version:
        registry.set_tags(version.version, {PREVIOUS: str(champion.version) if champion else "", "retain.promoted": _now()})  # fmt: skip
        registry.set_alias(CHAMPION, version.version)
    return registry.pick(str(version.version))


def _published_verdict(version: Version) -> dict[str, object]:
    if version.tags.get(VERDICT) != "pass":
        raise IntegrityError("this version has no passing verdict", got=version.tags.get(VERDICT), where=f"{version.name} {version.version}", fix=verdicts.NEW_GATE)  # fmt: skip
    return {"baselines": json.loads(version.tags[BASELINES]), "candidate_digest": version.digest}


def rollback(name: str) -> Version:
    """The champion before this one is champion again (it had passed its own gate)."""
    registry = open_registry(name)
    champion = registry.by_alias(CHAMPION)
    before = champion.tags.get(PREVIOUS, "") if champion else ""
    if champion is None or not before:
        raise UsageError("there is nothing to roll back to", where=name, got=f"champion {champion.version}" if champion else "no champion", expected="a champion that replaced another", fix="retain promote NAME VERSION")  # fmt: skip
    registry.set_tags(champion.version, {"retain.rolled_back": _now()})
    registry.set_alias(CHAMPION, int(before))
    return registry.pick(before)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Entry:
    """One line of a history; times in UTC."""

    version: int
    created: str
    aliases: tuple[str, ...]
    digest: str
    verdict: str
    events: Mapping[str, str]


def history(name: str) -> list[Entry]:
    """Every version, newest first."""
    kept = ("retain.promoted", "retain.rolled_back", "retain.approved_by", PREVIOUS)
    return [
        Entry(
            v.version, datetime.fromtimestamp(v.created / 1000, UTC).isoformat(timespec="seconds"), v.aliases, v.digest, v.tags.get(VERDICT, ""),
            {key.removeprefix("retain."): v.tags[key] for key in kept if v.tags.get(key)},
        )
        for v in reversed(open_registry(name).all())
    ]  # fmt: skip


def lineage(name: str, which: str = "candidate") -> lines.Node:
    """Where a version comes from; :func:`retain.publish.lineage.tree` prints it."""
    version = open_registry(name).pick(which)
    return lines.from_dict(json.loads(version.tags[LINEAGE]))
