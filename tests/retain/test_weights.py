"""Weights that lie in one place for all steps: sent off, laid beside their artifact again, and missed when they are gone."""

import json
import shutil
from pathlib import Path

import pytest

from retain import digest, weights
from retain.errors import ConfigError, EnvironmentFault

BIG = {"model-00001.safetensors": b"one" * 999, "model-00002.safetensors": b"two" * 999}
SMALL = {"config.json": b"{}", "proof.json": b"{}"}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(weights.VARIABLE, raising=False)
    folder = tmp_path / "artifact"
    folder.mkdir()
    for name, data in {**BIG, **SMALL}.items():
        (folder / name).write_bytes(data)
    return folder


def test_without_a_common_place_an_artifact_stays_as_it_is(model: Path) -> None:
    weights.send_off(model)
    assert {path.name for path in model.iterdir()} == {*BIG, *SMALL}
    assert weights.whole(model) == model
    assert weights.has_weights(model)


def test_on_a_volume_the_weights_lie_once_and_the_artifact_is_small(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest.of_model(model)
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path / "volume"))
    weights.send_off(model)
    assert {path.name for path in model.iterdir()} == {*SMALL, "weights.json"}
    assert weights.has_weights(model)
    travelled = Path(shutil.copytree(model, tmp_path / "next-pod"))
    assert digest.of_model(weights.whole(travelled)) == before
    assert all((travelled / name).is_symlink() for name in BIG)
    weights.send_off(model)  # again changes nothing
    assert len([p for p in (tmp_path / "volume").iterdir() if p.is_dir()]) == 1


def test_in_a_bucket_they_are_fetched_once_a_home(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_server: str
) -> None:  # fmt: skip
    before = digest.of_model(model)
    keys = {"AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "very-secret"}
    for name, value in {**keys, weights.VARIABLE: "s3://models/between"}.items():
        monkeypatch.setenv(name, value)
    weights.send_off(model)
    assert json.loads((model / "weights.json").read_text())["uri"].startswith("s3://models/between/")
    travelled = [Path(shutil.copytree(model, tmp_path / name)) for name in ("score", "publish")]
    assert {digest.of_model(weights.whole(folder)) for folder in travelled} == {before}
    assert len([p for p in (tmp_path / "home/weights").iterdir() if p.is_dir()]) == 1


def test_weights_that_are_gone_or_cut_short_are_said(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path / "volume"))
    weights.send_off(model)
    (place,) = (tmp_path / "volume").iterdir()
    (place / "model-00002.safetensors").write_bytes(b"half")
    with pytest.raises(EnvironmentFault, match=r"cut short(.|\n)*model-00002\.safetensors: 4 bytes"):
        weights.whole(Path(shutil.copytree(model, tmp_path / "one")))
    shutil.rmtree(place)
    with pytest.raises(EnvironmentFault, match=r"not there any more(.|\n)*--fresh"):
        weights.whole(Path(shutil.copytree(model, tmp_path / "two")))


def test_a_place_that_a_step_cannot_write_is_refused_and_nothing_is_lost(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights.VARIABLE, "oci://registry/models")
    with pytest.raises(ConfigError, match="a folder that all steps share, or s3://"):
        weights.send_off(model)
    assert {path.name for path in model.iterdir()} == {*BIG, *SMALL}
