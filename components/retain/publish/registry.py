"""What is done with published versions: pull, promote, roll back, look at the history and the lineage."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from retain import digest, tracking, uris
from retain.artifacts import check_writable
from retain.errors import ConfigError, EnvironmentFault, IntegrityError, UsageError
from retain.locks import alone, locked
from retain.publish import lineage as lines
from retain.publish import signing, verdicts
from retain.publish.stores import compare
from retain.publish.tags import version_tags
from retain.publish.versions import BASELINES, CHAMPION, LINEAGE, VERDICT, Registry, Version, open_registry

PREVIOUS = "retain.previous_champion"
LINEAGE_FILE = "lineage.json"
EXTRAS = (
    LINEAGE_FILE,
    "README.md",
    "verdict.json",
    "manifest.json",
    "proof.json",
    "compression.json",
    signing.SIGNATURE,
)
HARMLESS = (".safetensors", ".gguf", ".json", ".jinja", ".txt", ".model", ".md", ".sig")
Signature = Literal["verified", "not checked", "none"]


@dataclass(frozen=True)
class Pulled:
    folder: Path
    version: int
    digest: str
    signature: Signature


def pull(name: str, which: str, folder: Path, *, public_key: Path | None = None) -> Pulled:
    """The files of a version (number, alias or digest) into ``folder``, which appears whole or not at all.

    An earlier pull in ``folder`` gives way, anything else there is refused (ConfigError). Raises IntegrityError where the
    digest is not the registered one, a file could run code, or (with ``public_key``) the signature does not hold.
    """
    version = open_registry(name).pick(which)
    _check_replaceable(folder)
    check_writable(folder.parent)
    with _aside(folder) as aside:
        found = uris.fetch(version.source, aside)
        refuse_code(found)
        files = digest.model_manifest(found)
        if digest.of_manifest(files) != version.digest:
            raise IntegrityError("the store gave other files than were registered", where=uris.without_secrets(version.source), got=digest.of_manifest(files), expected=version.digest, fix="publish the model again")  # fmt: skip
        if public_key:
            signing.verify(found, files, public_key)
        _put(found, folder, files, aside)
    return Pulled(folder, version.version, version.digest, _signature(folder, checked=bool(public_key)))


def _signature(folder: Path, *, checked: bool) -> Signature:
    if not (folder / signing.SIGNATURE).is_file():
        return "none"
    return "verified" if checked else "not checked"


def _check_replaceable(folder: Path) -> None:
    """ConfigError unless ``folder`` is free, or holds nothing but an earlier pull as it was."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    ours = {*digest.model_files(folder), *(folder / name for name in EXTRAS)}
    odd = [p.name for p in folder.rglob("*") if not p.is_dir() and p not in ours]
    if odd or not (folder / LINEAGE_FILE).is_file():
        raise ConfigError("this folder holds something else than a pulled model", got=folder, where=", ".join(odd[:3]), expected="a new or empty folder", fix="--out another folder, or empty this one")  # fmt: skip
    if digest.of_model(folder) != json.loads((folder / LINEAGE_FILE).read_text(encoding="utf-8")).get("digest"):
        raise ConfigError("this model was changed since it was pulled", got=folder, fix="--out another folder, or empty this one: nothing in it is the registered model")  # fmt: skip


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` for one pull alone; what a killed one left in it is taken away."""
    aside = folder.absolute().with_name(f".{folder.absolute().name}.pull.partial")
    aside.mkdir(exist_ok=True)
    with alone(aside):
        try:
            for old in aside.iterdir():
                shutil.rmtree(old) if old.is_dir() else old.unlink()
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _put(found: Path, folder: Path, files: Mapping[str, str], aside: Path) -> None:
    """A copy of ``found`` that appears whole as ``folder``, in place of what stood there."""
    partial = aside / "whole"
    try:
        shutil.copytree(found, partial)
        compare(files, digest.model_manifest(partial), str(folder))
        if folder.exists():
            os.replace(folder, aside / "before")
        os.replace(partial, folder)
    except OSError as error:  # copytree collects the faults of many files into one
        raise EnvironmentFault("the model could not be copied to its folder", where=str(folder), got=error.strerror or str(error)[:200], fix="free some space or choose another folder") from error  # fmt: skip


def refuse_code(folder: Path) -> None:
    """IntegrityError where a model folder holds a pickle or a program."""
    odd = sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix not in HARMLESS)
    if odd:
        raise IntegrityError("a published model holds files that could run code", where=str(folder), got=", ".join(odd[:5]), expected=" ".join(HARMLESS))  # fmt: skip


def promote(name: str, which: str = "candidate", *, verdict: Path | None = None) -> Version:
    """Make a version the champion; it must have passed against the CURRENT one.

    ``verdict``: a newer verdict than the one it was published with (the champion has changed since); it becomes the
    version's own. Raises IntegrityError where that comparison is missing or a waiver has expired; the alias is moved last.
    """
    registry = open_registry(name)
    version = registry.pick(which)
    said = _newer_verdict(registry, version, verdict) if verdict else _published_verdict(version)
    crown(registry, version, said)
    return registry.pick(str(version.version))


def crown(registry: Registry, version: Version, said: Mapping[str, Any]) -> None:
    """Move ``champion`` to a version if its verdict compares with the model in service at this moment.

    Of two candidates that passed against the same champion the first is promoted and the second refused (6): they were
    never compared with each other. Between machines the moment from the look to the move is unguarded.
    """
    with locked(tracking.home() / "champion.lock"):
        champion = registry.by_alias(CHAMPION)
        verdicts.check_champion(said, champion.digest if champion else "", needed=True)
        if champion is None or champion.version != version.version:
            registry.set_tags(version.version, {PREVIOUS: str(champion.version) if champion else "", "retain.promoted": _now()})  # fmt: skip
            registry.set_alias(CHAMPION, version.version)


def _newer_verdict(registry: Registry, version: Version, verdict: Path) -> dict[str, Any]:
    """Checked like that of a publication; it is on the version before the alias moves."""
    said = verdicts.read(verdict)
    verdicts.check(said, version.digest)
    champion = registry.by_alias(CHAMPION)
    verdicts.check_champion(said, champion.digest if champion else "", needed=True)
    node = lines.judged(_lineage(version), said, verdicts.check_evidence(said, verdict))
    registry.set_tags(version.version, version_tags(said, node))
    return said


def _published_verdict(version: Version) -> dict[str, Any]:
    if version.tags.get(VERDICT) != "pass":
        raise IntegrityError("this version has no passing verdict", got=version.tags.get(VERDICT), where=f"{version.name} {version.version}", fix=verdicts.NEW_GATE)  # fmt: skip
    verdicts.check_days(lines.waivers(_lineage(version)))
    return {"baselines": json.loads(version.tags[BASELINES]), "candidate_digest": version.digest}


def rollback(name: str) -> Version:
    """The champion before this one is champion again (it had passed its own gate)."""
    registry = open_registry(name)
    with locked(tracking.home() / "champion.lock"):  # a promotion at this moment would be undone unseen
        return _rolled_back(registry, name)


def _rolled_back(registry: Registry, name: str) -> Version:
    champion = registry.by_alias(CHAMPION)
    before = champion.tags.get(PREVIOUS, "") if champion else ""
    if champion is None or not before:
        raise UsageError("there is nothing to roll back to", where=name, got=f"champion {champion.version}" if champion else "no champion", expected="a champion that replaced another", fix=f"retain promote {name} --version NUMBER")  # fmt: skip
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
    return _lineage(open_registry(name).pick(which))


def _lineage(version: Version) -> lines.Node:
    return lines.from_dict(json.loads(version.tags[LINEAGE]))
