"""Where published files lie: content-addressed places behind one small interface.

A place is ``<root>/<64 hex of the model digest>``. It is written aside, read back, and only then given its name, so a
reader finds a whole model or none; writing the same model twice is a look.
"""

import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

from retain import digest
from retain.artifacts import check_writable, flush
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.uris import fetch, scheme

STALE_SECONDS = 86400


class Store(Protocol):
    """A root address that keeps models by digest."""

    def put(self, model: Path, files: Mapping[str, str], extras: Mapping[str, bytes]) -> str:
        """Keep ``files`` (relative path → hex sha256) of the folder ``model`` and the small ``extras``; the address they have.

        Everything is read back and compared before this returns. IntegrityError: what came back is not what went in;
        EnvironmentFault: the store cannot be used now.
        """
        ...


def open_store(uri: str) -> Store:
    """The store at ``uri``: a folder or file://, s3://bucket/prefix, oci://registry/name, hf://org/name."""
    kind = scheme(uri)
    if kind == "file":
        return FolderStore(Path(unquote(uri.removeprefix("file://")) if "://" in uri else uri).expanduser())
    if kind == "s3":
        return S3Store(uri.rstrip("/"))
    if kind == "oci":
        return OciStore(uri.rstrip("/"))
    if kind == "hf":
        return HubStore(uri.rstrip("/"))
    raise ConfigError(
        "models cannot be published to such an address", got=uri, expected="a folder, s3://, oci:// or hf://"
    )


def place_name(files: Mapping[str, str]) -> str:
    return digest.of_manifest(dict(files)).removeprefix("sha256:")


class FolderStore:
    """A folder on a disk or a mounted volume; each place in it is a model folder as hubs and servers know it."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def put(self, model: Path, files: Mapping[str, str], extras: Mapping[str, bytes]) -> str:
        check_writable(self.root)
        place = self.root / place_name(files)
        if not place.is_dir():
            self._fill(place, model, files)
        compare(files, digest.model_manifest(place), str(place))
        for name, data in extras.items():
            _write(place / name, data)
        return f"file://{quote(str(place))}"

    def _fill(self, place: Path, model: Path, files: Mapping[str, str]) -> None:
        partial = _aside(place)
        _sweep(place)
        try:
            for name in files:
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(model / name, target)
                flush(target)
            compare(files, digest.model_manifest(partial), str(model))
            partial.replace(place)
        except IntegrityError:  # the model was changed while it was copied: its place must not hold that
            shutil.rmtree(partial)
            raise
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not place.is_dir():  # else another publisher of the same model was first: theirs is as good
                raise EnvironmentFault("the model could not be copied to its store", where=str(self.root), got=error.strerror or error, fix="free some space or choose another store") from error  # fmt: skip


class S3Store:
    """A prefix in a bucket."""

    def __init__(self, root: str) -> None:
        self.root = root

    def put(self, model: Path, files: Mapping[str, str], extras: Mapping[str, bytes]) -> str:
        from retain import s3

        place = f"{self.root}/{place_name(files)}"
        s3.upload(place, model, files)
        compare(files, s3.sha256(place, files), place)
        s3.write_all(place, extras)
        return place


class OciStore:
    """A repository in an OCI registry; the address is that of the artifact's manifest."""

    def __init__(self, root: str) -> None:
        self.root = root

    def put(self, model: Path, files: Mapping[str, str], extras: Mapping[str, bytes]) -> str:
        from retain import oci

        place = oci.push(self.root, model, files, extras, place_name(files))
        back = oci.check(place)
        compare(files, {name: sha for name, sha in back.items() if name in files}, place)
        return place


class HubStore:
    """A repository of a Hugging Face hub; the address is that of a commit."""

    def __init__(self, root: str) -> None:
        self.root = root

    def put(self, model: Path, files: Mapping[str, str], extras: Mapping[str, bytes]) -> str:
        import tempfile

        from retain import hub

        place = hub.push(self.root, model, files, extras)
        with tempfile.TemporaryDirectory() as aside:
            compare(files, digest.model_manifest(fetch(place, Path(aside))), place)
        return place


def compare(wanted: Mapping[str, str], got: Mapping[str, str], where: str) -> None:
    """IntegrityError that names the files where what came back differs from what went in."""
    wrong = sorted(name for name in {*wanted, *got} if wanted.get(name) != got.get(name))
    if wrong:
        raise IntegrityError(
            "the store holds other bytes than were gated", where=where, got=", ".join(wrong[:5]), expected=digest.of_manifest(dict(wanted)),
            fix="remove that place and publish again; check the store's disk",
        )  # fmt: skip


def _sweep(place: Path) -> None:
    """Take away what killed publishers of this model left; what was written to within a day may still be at work."""
    for old in place.parent.glob(f"{place.name}.*.partial"):
        with suppress(FileNotFoundError):  # its publisher is done at this moment
            if max(p.stat().st_mtime for p in [old, *old.rglob("*")]) < time.time() - STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)


def _aside(path: Path) -> Path:
    """A name that no thread, process or pod on a shared volume has too."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")


def _write(path: Path, data: bytes) -> None:
    partial = _aside(path)
    partial.write_bytes(data)
    flush(partial)
    partial.replace(path)
