"""Checkpoints without a pickle: safetensors and JSON, written aside, flushed to the disk, renamed.

step-00000120/{state.safetensors, state.json} in the run's own place (retain.train.places): a checkpoint of another run is
never found by chance, and refused when it is named. A folder of that name is whole: it got its name after its last byte
was on the disk.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from retain import artifacts
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.train import places
from retain.train.optimizer import Masters
from retain.train.sharding import whole

SCHEMA = "retain.checkpoint/1"


def find(resume: str, folder: Path, key: str) -> Path | None:
    """The checkpoint to go on from; one of another recipe, data set or base is refused."""
    if resume == "never":
        return None
    found = places.latest(folder) if resume == "auto" else Path(resume)
    if found is not None:
        if not found.is_dir():
            raise ConfigError("there is no such checkpoint", where="train.resume", got=resume, expected="auto, never, or the folder of one checkpoint (…/step-00000120)", fix="use auto: the last whole one of this recipe and data is found by itself")  # fmt: skip
        got = artifacts.read_json(found / "state.json", schema=SCHEMA)["key"]
        if got != key:
            raise IntegrityError(
                "this checkpoint belongs to another recipe, data set or base", where=str(found), got=got, expected=key,
                fix="use the recipe it was made with, or train.resume: never",
            )  # fmt: skip
    return found


def save(folder: Path, step: int, key: str, tensors: dict[str, torch.Tensor], state: dict[str, Any], keep: int, also: Callable[[Path], None]) -> Path:  # fmt: skip
    """Write ``step``'s checkpoint and delete all but the last ``keep``.

    ``tensors``: the optimizer's (`tensors_of`) and others; ``state``: JSON, with ``random`` (`random_state` of every process); ``also`` puts further files into the folder.
    """
    target = folder / f"step-{step:08d}"
    partial = folder / f".{target.name}.{os.getpid()}.partial"
    try:
        clear(folder)
        partial.mkdir(parents=True)
        save_file(tensors, partial / "state.safetensors")
        also(partial)
        for file in partial.iterdir():
            flush(file)
        artifacts.write_json(partial / "state.json", {**state, "schema": SCHEMA, "key": key, "step": step})
        if target.exists():
            shutil.rmtree(target)
        partial.replace(target)
        flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise EnvironmentFault(
            "a checkpoint could not be written", where=str(target), got=getattr(error, "strerror", "") or str(error),
            fix="free some space and run again: the training goes on from the last whole checkpoint",
        ) from error  # fmt: skip
    for old in sorted(folder.glob(places.STEPS))[:-keep]:
        shutil.rmtree(old)
    return target


def clear(folder: Path) -> None:
    """Remove what a killed writer left behind."""
    for stale in folder.glob(".step-*.partial"):
        shutil.rmtree(stale)


def flush(path: Path) -> None:
    """fsync of a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(checkpoint: Path, optimizer: Masters) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Put a checkpoint into ``optimizer`` (and through it into the model) and set the random states; (extra tensors, state)."""
    tensors = load_file(checkpoint / "state.safetensors")
    state = artifacts.read_json(checkpoint / "state.json", schema=SCHEMA)
    optimizer.put([tensors.pop(f"master.{i}") for i in range(len(optimizer.masters))])
    for i in range(len(optimizer.masters)):
        names = [name for name in tensors if name.startswith(f"adam.{i}.")]
        optimizer.set_moments(i, {name.rsplit(".", 1)[1]: tensors.pop(name) for name in names})
    return tensors, state


def stopped(checkpoint: Path) -> str:
    """Why the run of this checkpoint had stopped early, or ""."""
    return str(artifacts.read_json(checkpoint / "state.json", schema=SCHEMA)["history"]["stop"])


def tensors_of(optimizer: Masters, best: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Everything of a run that is a tensor, whole: where the model is split, all processes ask for it together.

    Not copied (a copy is 12 bytes a weight), but for what several weights share (tables of 8-bit moments): a file holds no sharing.
    """
    seen: set[int] = set()

    def own(tensor: torch.Tensor) -> torch.Tensor:
        found = whole(tensor)
        found = found.clone() if found.data_ptr() in seen else found
        seen.add(found.data_ptr())
        return found

    result = {f"best.{i}": own(weight) for i, weight in enumerate(best)}
    for i, master in enumerate(optimizer.masters):
        result[f"master.{i}"] = own(master.detach())
        for name, value in optimizer.moments(i).items():
            result[f"adam.{i}.{name}"] = own(value)
    return result


def random_state() -> dict[str, Any]:
    """States of the generators that dropout and libraries draw from, in this process and on its own GPU."""
    version, numbers, gauss = random.getstate()
    state = {"python": [version, list(numbers), gauss], "torch": torch.get_rng_state().numpy().tobytes().hex()}
    name, keys, position, has_gauss, cached = np.random.get_state()
    state["numpy"] = [name, [int(key) for key in keys], position, has_gauss, cached]
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return json.loads(json.dumps(state))


def restore_random(states: list[dict[str, Any]]) -> None:
    """Take up this process's own state; one more process than there were goes on with the first one's."""
    rank = int(os.environ.get("RANK", 0))
    state = states[rank if rank < len(states) else 0]
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes(state["torch"]))
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state(_bytes(state["cuda"]))


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
