"""Finished scores in a store that several machines share."""

import logging
from pathlib import Path

import pytest

from retain import s3
from retain.errors import ConfigError
from retain.score.shards import Shards

KEY, META = {"model": "sha256:1", "task": "reading"}, {"metric": "acc"}
STORE = "s3://models/cache"
ROW = {
    "task": "reading", "task_version": "1", "doc_id": "0", "doc_hash": "h", "cluster": "h", "stratum": "", "metric": "acc", "higher_is_better": True,
    "value": 1.0, "chance": 0.25, "p_gold": 0.5, "output": "a", "gold": "a", "truncated": False,
}  # fmt: skip


@pytest.fixture
def store(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RETAIN_CACHE_URI", STORE)
    return STORE


def test_what_one_machine_scored_another_finds(store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = Shards(tmp_path / "two")
    assert other.get(KEY) is None
    Shards(tmp_path / "one").put(KEY, [ROW], META)
    assert len(s3.listing(store)) == 2
    assert other.get(KEY) == ([ROW], META)
    assert other.get({**KEY, "task": "maths"}) is None
    (rows,) = (tmp_path / "two").glob("*.parquet")
    rows.write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        assert other.get(KEY) is None
    assert "damaged" in caplog.text


SHAPE = {"config": "sha256:2", "dtype": "bf16", "device": "cpu"}


def test_the_smallest_budget_that_any_machine_found_counts_for_all(store: str, tmp_path: Path) -> None:
    one, two = Shards(tmp_path / "one"), Shards(tmp_path / "two")
    assert two.budget(SHAPE) is None
    one.put_budget(SHAPE, 256)
    two.put_budget(SHAPE, 512)  # had not asked again in the meantime
    assert (one.budget(SHAPE), two.budget(SHAPE), Shards(tmp_path / "three").budget(SHAPE)) == (256, 256, 256)
    assert one.budget({**SHAPE, "dtype": "fp32"}) is None


def test_a_store_that_is_away_stops_no_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    values = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y", "RETAIN_CACHE_URI": STORE}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("retain.s3.ATTEMPTS", 1)
    kept = Shards(tmp_path)
    assert kept.get(KEY) is None
    kept.put(KEY, [ROW], META)
    assert kept.get(KEY) == ([ROW], META)
    kept.put_budget(SHAPE, 256)
    assert kept.budget(SHAPE) == 256
    assert caplog.text.count("is not shared") == 2


def test_only_a_store_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_CACHE_URI", "/mnt/cache")
    with pytest.raises(ConfigError, match="RETAIN_CACHE_URI"):
        Shards(tmp_path)
