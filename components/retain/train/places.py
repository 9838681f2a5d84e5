"""Where the checkpoints of a run lie, found by the digest of its recipe, data and base: a folder, a volume or s3://.

<place>/<first 16 hex of the key>/step-00000120/. Without torch, so that publishing can delete them from a small image.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from retain import uris
from retain.errors import ConfigError, EnvironmentFault
from retain.locks import locked

STEPS = "step-????????"
MARK = "state.json"  # written last: a checkpoint with it is whole


def home(checkpoints: Path, key: str) -> Path:
    """Where the checkpoints of one recipe on one data set lie."""
    return checkpoints / _short(key)


def latest(folder: Path) -> Path | None:
    """The last whole checkpoint; half-written ones have another name."""
    return max(folder.glob(STEPS), default=None)


def discard(uri: str, default: Path, key: str) -> None:
    """Delete the checkpoints of a run that is published; ``key`` is retain.json's ``checkpoint_key``."""
    place = Place(uri, default, key)
    shutil.rmtree(place.folder, ignore_errors=True)
    place.remove_remote()


class Place:
    """The checkpoints of one run.

    Args:
        uri: train.checkpoint_uri; empty: ``default``, s3://: ``default`` is a cache in front of it.
        default: the folder of this machine.
        key: digest of recipe, data and base.
    """

    def __init__(self, uri: str, default: Path, key: str) -> None:
        kind = uris.scheme(uri)
        if kind not in ("file", "s3"):
            raise ConfigError("checkpoints cannot lie there", where="train.checkpoint_uri", got=uri, expected="a folder or s3://bucket/path")  # fmt: skip
        self.key, self.remote = key, f"{uri.rstrip('/')}/{_short(key)}" if kind == "s3" else ""
        self.folder = home(Path(uri.removeprefix("file://")) if uri and not self.remote else default, key)
        self.lost: list[str] = []

    def fetch(self) -> None:
        """Bring the last whole checkpoint of the store here, where this machine has no newer one (one process at a time)."""
        if not self.remote:
            return
        from retain import s3

        with locked(self.folder / ".lock"):
            names, here = s3.listing(self.remote), latest(self.folder)
            there = max(_whole(names), default="")
            if there and (here is None or there > here.name):
                partial = self.folder / f".{there}.fetched.partial"
                shutil.rmtree(partial, ignore_errors=True)
                s3.download(self.remote, {name: found for name, found in names.items() if name.startswith(f"{there}/")}, partial)  # fmt: skip
                (partial / there).replace(self.folder / there)
                partial.rmdir()

    def keep(self, checkpoint: Path, count: int) -> None:
        """Copy a whole checkpoint to the store and leave its last ``count`` there.

        A store that is away stops no training: the loss is noted in ``lost``, and the next checkpoint is tried again.
        """
        if not self.remote:
            return
        from retain import s3

        files = sorted((file.name for file in checkpoint.iterdir()), key=lambda name: name == MARK)
        try:
            s3.remove(f"{self.remote}/{checkpoint.name}", first=MARK)  # what a killed pod left of it
            s3.upload(f"{self.remote}/{checkpoint.name}", checkpoint, files)
            for old in sorted({name.split("/")[0] for name in s3.listing(self.remote)})[:-count]:
                s3.remove(f"{self.remote}/{old}", first=MARK)
        except EnvironmentFault as fault:
            self.lost.append(f"{checkpoint.name} did not reach {self.remote}: {fault.what}")

    def remove_remote(self) -> None:
        if self.remote:
            from retain import s3

            for step in sorted({name.split("/")[0] for name in s3.listing(self.remote)}):
                s3.remove(f"{self.remote}/{step}", first=MARK)


def _whole(names: Iterable[Any]) -> list[str]:
    """Steps whose last file has arrived."""
    return [name.removesuffix(f"/{MARK}") for name in names if name.endswith(f"/{MARK}")]


def _short(key: str) -> str:
    return key.removeprefix("sha256:")[:16]
