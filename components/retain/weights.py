"""Weights between the steps: a model's big files lie in one place that all steps reach, and do not travel as artifacts.

KFP uploads every output of a step and downloads every input of the next, which for a model means its weights, four times a
run. Where ``RETAIN_MODELS_URI`` names a folder that all steps share (a volume) or ``s3://bucket/prefix``, a finished artifact
keeps its small files and ``weights.json``, which says where its weights lie and what they are; whoever is given the artifact
lays them beside it again. The address comes by environment because it changes no result.
"""

import os
from pathlib import Path
from typing import Any

from retain import digest, tracking, uris
from retain.artifacts import read_json, write_json
from retain.errors import ConfigError, EnvironmentFault, RetainError
from retain.steps import say

VARIABLE = "RETAIN_MODELS_URI"
SCHEMA, CARD = "retain.weights/1", "weights.json"
GONE_FIX = "make them again without the cache (--fresh), and keep that place as long as the cache; weights on a volume are only seen by what mounts it"


def send_off(folder: Path) -> None:
    """Move the weights of a finished model or adapter to the common place; without one, they stay in the artifact.

    Content-addressed and read back before they are taken out of ``folder``: killed anywhere, the artifact is whole or unfinished.
    """
    from retain.publish.stores import open_store

    root = os.environ.get(VARIABLE, "")
    files = {path.relative_to(folder).as_posix(): path for path in _weights(folder)}
    if not root or not files:
        return
    if uris.scheme(root) not in ("file", "s3"):
        raise ConfigError(f"{VARIABLE} cannot be used", got=root, expected="a folder that all steps share, or s3://bucket/prefix")  # fmt: skip
    known = {name: digest.of_file(path).removeprefix("sha256:") for name, path in files.items()}
    place = open_store(root).put(folder, known, {})
    card = {name: {"sha256": known[name], "bytes": path.stat().st_size} for name, path in files.items()}
    write_json(folder / CARD, {"schema": SCHEMA, "uri": place, "files": card})
    for path in files.values():
        path.unlink()
    say(f"weights   {place}")


def whole(folder: Path) -> Path:
    """``folder`` with its weights in it again, as links into the place where they lie (from S3: into a copy kept in the home).

    EnvironmentFault (8) where they are not there any more, or the place is not reached from here.
    """
    if not (folder / CARD).is_file():
        return folder
    card = read_json(folder / CARD, schema=SCHEMA)
    missing = {name: entry for name, entry in card["files"].items() if not (folder / name).is_file()}
    if missing:
        found = _fetched(card["uri"], folder)
        for name, entry in missing.items():
            _link(found / name, folder / name, entry, card["uri"])
    return folder


def has_weights(folder: Path) -> bool:
    """Whether this is an artifact with weights, wherever these lie."""
    return (folder / CARD).is_file() or bool(_weights(folder))


def _weights(folder: Path) -> list[Path]:
    return [path for path in digest.model_files(folder) if path.name.endswith(digest.WEIGHTS)]


def _fetched(uri: str, folder: Path) -> Path:
    try:
        return uris.fetch(uri, tracking.home() / "weights")
    except ConfigError as error:
        raise EnvironmentFault("the weights of this artifact are not there any more", where=str(folder), got=uri, fix=GONE_FIX) from error  # fmt: skip


def _link(source: Path, target: Path, entry: dict[str, Any], uri: str) -> None:
    size = source.stat().st_size if source.is_file() else -1
    if size != entry["bytes"]:
        raise _damaged(uri, source.name, size, entry["bytes"])
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.{os.getpid()}.partial")
    aside.unlink(missing_ok=True)
    aside.symlink_to(source.absolute())
    aside.replace(target)


def _damaged(uri: str, name: str, got: int, expected: int) -> RetainError:
    if got < 0:
        return EnvironmentFault("the weights of this artifact are not there any more", where=uri, got=f"no {name}", fix=GONE_FIX)  # fmt: skip
    return EnvironmentFault("the weights of this artifact were cut short", where=uri, got=f"{name}: {got} bytes", expected=f"{expected} bytes", fix="make them again without the cache (--fresh)")  # fmt: skip
