"""One file lock for everything that two processes of one machine may do at once."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retain.errors import EnvironmentFault


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold ``path`` (made if missing) alone; others wait; a killed holder lets go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder itself, so that no lock file is left in it; EnvironmentFault where another process holds it.

    Where the file system cannot lock a folder (some NFS), nobody is kept out.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EnvironmentFault("another process writes into this folder", where=str(folder), fix="wait for its end, or choose another output folder") from None  # fmt: skip
        except OSError:
            pass  # no locks on folders here
        yield
    finally:
        os.close(handle)
