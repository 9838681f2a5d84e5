"""Content digests, always written ``sha256:<64 hex>``.

A digest names content, never a place: the same rows, weights or template have the same digest on every machine.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from retain.errors import IntegrityError

# What makes a model: weights, shapes, vocabulary and template. Cards, proofs and signatures lie beside and do not count.
WEIGHTS = (".safetensors", ".gguf")
MODEL_FILES = (
    "*.safetensors", "*.gguf", "*.index.json", "config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json",
    "added_tokens.json", "vocab.*", "merges.txt", "chat_template.*",
)  # fmt: skip


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, no NaN, and text as it is (no ``\\u`` escapes)."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def of_bytes(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def of_json(value: Any) -> str:
    return of_bytes(canonical_json(value).encode("utf-8", "surrogatepass"))


class Rows:
    """Digest of a sequence of JSON values, order included, fed one by one."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def add(self, row: Any) -> None:
        self._sha.update(canonical_json(row).encode("utf-8", "surrogatepass") + b"\n")

    def digest(self) -> str:
        return "sha256:" + self._sha.hexdigest()


def of_rows(rows: Iterable[Any]) -> str:
    """Digest of a whole sequence of JSON values, order included."""
    sha = Rows()
    for row in rows:
        sha.add(row)
    return sha.digest()


def of_file(path: Path) -> str:
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that make its digest, in the order of their relative paths."""
    files = (p for p in folder.rglob("*") if p.is_file() and any(fnmatch(p.name, pattern) for pattern in MODEL_FILES))
    return sorted(files, key=lambda p: p.relative_to(folder).as_posix())


def model_manifest(folder: Path) -> dict[str, str]:
    """Relative path → hex sha256 of every file that counts."""
    return {p.relative_to(folder).as_posix(): of_file(p).removeprefix("sha256:") for p in model_files(folder)}


def has_weights(names: Iterable[str]) -> bool:
    """Whether weights are among these file names: safetensors, or the GGUF form that compress writes."""
    return any(name.endswith(WEIGHTS) for name in names)


def of_manifest(manifest: dict[str, str]) -> str:
    lines = sorted(f"{sha}  {path}\n" for path, sha in manifest.items())
    return of_bytes("".join(lines).encode())


def of_model(folder: Path) -> str:
    """Digest of a model folder: the sorted lines ``sha256␠␠path`` of the files in MODEL_FILES."""
    manifest = model_manifest(folder)
    if not has_weights(manifest):
        raise IntegrityError(
            "this folder holds no model", where=str(folder), got="no *.safetensors or *.gguf file",
            expected="a Hugging Face layout with safetensors weights",
            fix="convert pickled weights once with transformers' save_pretrained, or point to the right folder",
        )  # fmt: skip
    return of_manifest(manifest)


def of_tokenizer(folder: Path) -> str:
    """Digest of the vocabulary and template files of a model folder: what decides which tokens a text becomes."""
    weights, skip = (*WEIGHTS, ".index.json"), {"config.json", "generation_config.json"}
    files = (p for p in model_files(folder) if not p.name.endswith(weights) and p.name not in skip)
    return of_manifest({p.relative_to(folder).as_posix(): of_file(p).removeprefix("sha256:") for p in files})


def iter_jsonl(lines: Iterable[str]) -> Iterator[Any]:
    """JSON values of lines split on ``\\n`` only: U+2028 inside a value does not break a row."""
    return (json.loads(line) for line in lines if line.strip())
