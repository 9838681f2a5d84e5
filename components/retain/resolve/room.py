"""Is there room for what a run on this machine writes? Asked in the first task, before hours of work are spent."""

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from retain.artifacts import check_writable
from retain.errors import EnvironmentFault

# A checkpoint of a trained weight: itself and two moments of Adam, fp32, beside 2 bytes in the base; two are kept.
CHECKPOINTS_PER_BASE = 2 * 12 / 2


def bytes_needed(base_bytes: int, method: str, publish: bool) -> dict[str, int]:
    """At least so many bytes in the run's folder (``run``) and in the machine's store (``home``).

    The merged model is as large as the base; full fine-tuning hands over every weight once more and keeps checkpoints of
    them; a published model is a copy. Adapters, scores and tokens are small beside these and left out: a run that is
    refused could not have ended.
    """
    full = method == "full"
    return {
        "run": base_bytes * (2 if full else 1),
        "home": int(base_bytes * (CHECKPOINTS_PER_BASE * full + publish)),
    }


def check_room(places: Mapping[str, Path], needed: Mapping[str, int]) -> None:
    """``places`` and ``needed`` by the same names; places on one disk share its room.

    Raises:
        EnvironmentFault: a place cannot be written, or its disk has less room than is needed.
    """
    by_disk: dict[int, list[str]] = defaultdict(list)
    for name, place in places.items():
        check_writable(place)
        by_disk[os.stat(place).st_dev].append(name)
    for names in by_disk.values():
        free, wanted = shutil.disk_usage(places[names[0]]).free, sum(needed[name] for name in names)
        if free < wanted:
            raise EnvironmentFault(
                "there is too little room on the disk for this run",
                where=", ".join(str(places[name]) for name in names),
                got=f"{free / 1e6:,.1f} MB free",
                expected=f"{wanted / 1e6:,.1f} MB or more (the merged model, checkpoints, the published copy)",
                fix="free some space, choose another folder with --runs, or set RETAIN_HOME to another disk",
            )
