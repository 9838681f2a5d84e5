"""Which files of a folder are its weights: those that transformers would load, and nothing that the index gets wrong."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from retain.errors import IntegrityError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read(folder: Path) -> dict[str, str]:
    """Tensor → file name; empty where the folder has no index, or one file that makes it idle."""
    path = folder / INDEX
    if (folder / SINGLE).is_file() or not path.is_file():
        return {}
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (ValueError, TypeError, LookupError) as error:
        raise _wrong(path, f"it cannot be read: {error}") from None
    for file in found.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise _wrong(path, f"it names {file}, which lies in another folder")
        if not (folder / file).is_file():
            raise _wrong(path, f"it names {file}, which is not there")
    return found


def weight_files(folder: Path, index: Mapping[str, str]) -> list[str]:
    """File names, sorted; what else lies there (a second copy in another format, say) is no part of the model."""
    if index:
        return sorted(set(index.values()))
    return [SINGLE] if (folder / SINGLE).is_file() else sorted(path.name for path in folder.glob("*.safetensors"))


def check(folder: Path, index: Mapping[str, str], held: Mapping[str, Iterable[str]]) -> None:
    """IntegrityError unless every tensor lies in one file only, the one that the index says. held: file → its tensors."""
    seen: dict[str, str] = {}
    for file, names in held.items():
        for name in names:
            if (index and index.get(name) != file) or name in seen:
                other = seen.get(name) or index.get(name, "no file")
                raise _wrong(folder / INDEX, f"{name} lies in {file}, and should in {other}")
            seen[name] = file
    if lost := sorted(set(index) - set(seen)):
        raise _wrong(folder / INDEX, f"{lost[0]} is not in {index[lost[0]]}")


def _wrong(path: Path, how: str) -> IntegrityError:
    return IntegrityError("weights and their index do not agree", where=str(path), got=how, fix="fetch or train it again")  # fmt: skip
