"""The image references: two images, immutable tags, and no way for a face and its image to drift apart."""

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Literal, get_args

Kind = Literal["cpu", "gpu"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Beside the packages: all that decides what a build of the same sources holds. The compiled IR names images, so it is outside.
RECIPE = ("pyproject.toml", "images/Dockerfile", "images/install.sh", "images/locks/*.txt")


def version() -> str:
    return installed_version("retain")


def reference(kind: Kind) -> str:
    """The name that stands in a compiled pipeline; compile and submit put a registry and ``@sha256:`` to it."""
    return f"retain-{kind}:{version()}"


def built(kind: Kind) -> str:
    """The name that ``make images`` gives: the same sources and locks, the same name."""
    return f"retain-{kind}:{content_tag()}"


@cache
def content_tag() -> str:
    """``<version>-<12 hex>`` over the installed sources: names a build, and is the cache key of a laptop's run."""
    here = Path(__file__).resolve().parent
    upper = here.parents[1] / "pipelines" / "retain_pipelines"
    in_checkout = upper.is_dir()
    return tag_of([here, upper if in_checkout else here.parent / "retain_pipelines"], here.parents[1] if in_checkout else None)  # fmt: skip


def tag_of(packages: list[Path], checkout: Path | None) -> str:
    """``<version>-<12 hex of sha256>`` over every file of ``packages`` and, in a ``checkout``, over the images' recipe."""
    sha = hashlib.sha256()
    for root in packages:
        for path in sorted(_files(root)):
            sha.update(f"{root.name}/{path.relative_to(root).as_posix()}".encode() + b"\0" + path.read_bytes() + b"\0")
    for path in sorted(p for pattern in RECIPE if checkout for p in checkout.glob(pattern)):
        sha.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{version()}-{sha.hexdigest()[:12]}"


def _files(root: Path) -> Iterator[Path]:
    """What goes into the wheel: no bytecode, nothing hidden."""
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            yield path
