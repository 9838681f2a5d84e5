"""A compressed model is another model: its own verdict, its own version, and a lineage that leads through the original."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.compress.config import CompressConfig
from retain.compress.work import compress
from retain.errors import IntegrityError
from retain.publish import registry
from retain.publish.config import PublishConfig
from retain.publish.lineage import tree
from retain.publish.work import publish

Judged = Callable[..., Path]
ORDERS = PublishConfig(name="orders")


@pytest.mark.parametrize("method", ["2:4", "gguf"])
def test_it_is_gated_again(method: str, model: Path, judged: Judged, recipe: dict[str, Any], tmp_path: Path) -> None:
    before = publish(ORDERS, model, judged(model), recipe=recipe)
    small = tmp_path / "small"
    done = compress(CompressConfig(method=method, probe_rows=1, probe_tokens=4, device="cpu"), model, small)
    with pytest.raises(IntegrityError, match="another model"):
        publish(ORDERS, small, judged(model), recipe=recipe)
    after = publish(ORDERS, small, judged(small), recipe=recipe)
    assert (after.version, after.digest) == (2, done.digest)
    lines = tree(registry.lineage("orders", "2")).splitlines()
    assert lines[0] == f"model {done.digest[7:19]} (compressed {method})"
    assert lines[1].startswith(f"├─ model {before.digest[7:19]}")
    assert any("verdict" in line for line in lines)
    pulled = registry.pull("orders", "2", tmp_path / "pulled").folder
    assert digest.of_model(pulled) == done.digest
    assert f"compressed afterwards: {method}" in (pulled / "README.md").read_text()
    assert (pulled / "compression.json").is_file()


def test_a_changed_compressed_file_is_found(model: Path, judged: Judged, tmp_path: Path) -> None:
    small = tmp_path / "small"
    compress(CompressConfig(method="gguf", probe_rows=1, probe_tokens=4, device="cpu"), model, small)
    file = next(small.glob("*.gguf"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="changed after it was made"):
        publish(ORDERS, small, judged(small))
