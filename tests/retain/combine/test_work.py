"""An adapter is known by the mixture it was trained on, whatever its place in the list."""

import json
from pathlib import Path

import pytest

from retain.combine.work import by_domain, weighted
from retain.errors import IntegrityError


def mixture(folder: Path, domain: str, digest: str) -> Path:
    folder.mkdir()
    sources = [
        {"part": "target", "source": domain},
        {"part": "target", "source": f"{domain}#2"},
        {"part": "replay", "source": "general"},
    ]
    (folder / "info.json").write_text(json.dumps({"schema": "retain.mixture/1", "digest": digest, "sources": sources}))
    return folder


def adapter(folder: Path, digest: str) -> Path:
    folder.mkdir()
    (folder / "retain.json").write_text(json.dumps({"schema": "retain.adapter/1", "mixture_digest": digest}))
    return folder


def test_adapters_find_their_domains_in_any_order(tmp_path: Path) -> None:
    mixtures = [mixture(tmp_path / "m1", "north", "sha256:1"), mixture(tmp_path / "m2", "south", "sha256:2")]
    one, two = adapter(tmp_path / "a1", "sha256:1"), adapter(tmp_path / "a2", "sha256:2")
    found = by_domain([two, one], mixtures)
    assert found == {"north": one, "south": two} == by_domain([one, two], mixtures[::-1])
    assert weighted("south=0.9, north=0.1", found) == [(str(two), 0.9), (str(one), 0.1)]
    with pytest.raises(IntegrityError, match="not every domain"):
        by_domain([one], mixtures)
    with pytest.raises(IntegrityError, match="no mixture of this run"):
        by_domain([one, one], mixtures)
    with pytest.raises(IntegrityError, match="no mixture of this run"):
        by_domain([one, adapter(tmp_path / "a3", "sha256:3")], mixtures)
