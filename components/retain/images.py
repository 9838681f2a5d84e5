"""The image references: two images, immutable tags, and no way for a face and its image to drift apart."""

import hashlib
from functools import cache
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Literal

Kind = Literal["cpu", "gpu"]
SOURCES = ("components", "pipelines", "images")
SOURCE_ENDINGS = (".py", ".txt", ".jsonl", ".yaml", ".toml", "Dockerfile")


def version() -> str:
    return installed_version("retain")


def reference(kind: Kind) -> str:
    """The name that stands in a compiled pipeline; compile and submit put a registry and ``@sha256:`` to it."""
    return f"retain-{kind}:{version()}"


@cache
def content_tag() -> str:
    """``<version>-<12 hex>`` over the installed sources: names a build, and is the cache key of a laptop's run."""
    sha = hashlib.sha256()
    for root in _source_roots():
        for path in sorted(
            p
            for p in root.rglob("*")
            if p.is_file() and p.name.endswith(SOURCE_ENDINGS) and "__pycache__" not in p.parts
        ):
            sha.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{version()}-{sha.hexdigest()[:12]}"


def _source_roots() -> list[Path]:
    """The packages themselves, and the locks beside them in a checkout."""
    here = Path(__file__).resolve().parent
    upper = here.parents[1] / "pipelines" / "retain_pipelines"
    roots = [here, upper if upper.is_dir() else here.parent / "retain_pipelines", here.parents[1] / "images"]
    return [root for root in roots if root.is_dir()]
