"""The checkpoints of a published run are deleted, where they lie, and no others; a store takes and gives whole ones only."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import s3 as store
from retain.artifacts import write_json
from retain.digest import model_manifest
from retain.errors import ConfigError, EnvironmentFault
from retain.publish.config import PublishConfig
from retain.publish.work import publish
from retain.train.places import Place, latest

KEY, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def checkpoint(folder: Path, step: int, text: str = "state") -> Path:
    made = folder / f"step-{step:08d}"
    made.mkdir(parents=True)
    for name in ("state.json", "state.safetensors", "trainer_state.json"):
        (made / name).write_text(f"{text} {step} {name}")
    return made


def merged(model: Path, key: str, *, smaller: bool = False) -> Path:
    """``model`` with the manifest of a merge (or of a compression after it) that knows where its training's checkpoints are."""
    made: dict[str, Any] = {
        "adapters": [{"digest": "", "weight": 1.0, "kind": "lora", "training": {"checkpoint_key": key}}]
    }
    made = {"compressed": "2:4", "made_from": {"digest": "sha256:" + "d" * 64, **made}} if smaller else made
    write_json(model / "manifest.json", {"schema": "retain.manifest/1", "files": model_manifest(model), **made})
    return model


@pytest.mark.parametrize(("named", "smaller"), [(True, False), (False, True)])
def test_publishing_deletes_the_checkpoints_of_its_own_run(named: bool, smaller: bool, model: Path, judged: Callable[..., Path], home: Path, recipe: dict[str, Any], tmp_path: Path) -> None:  # fmt: skip
    uri, folder = (str(tmp_path / "volume"), tmp_path / "volume") if named else ("", home / "checkpoints")
    for key in (KEY, OTHER):
        checkpoint(Place(uri, home / "checkpoints", key).folder, 7)
    recipe = {**recipe, "train": {**recipe["train"], "checkpoint_uri": uri}}
    publish(
        PublishConfig(name="orders", enabled=False), merged(model, KEY, smaller=smaller), judged(model), recipe=recipe
    )
    assert len(list(folder.iterdir())) == 2  # nothing was published
    publish(PublishConfig(name="orders"), model, judged(model), recipe=recipe)
    assert [path.name for path in folder.iterdir()] == ["b" * 16]


def test_a_store_that_is_away_does_not_stop_a_publication(model: Path, judged: Callable[..., Path], recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setattr(store, "ATTEMPTS", 1)
    recipe = {**recipe, "train": {"checkpoint_uri": "s3://bucket/checkpoints"}}
    done = publish(PublishConfig(name="orders"), merged(model, KEY), judged(model), recipe=recipe)
    assert done.version == 1
    assert any("were not deleted" in note for note in done.notes)


def test_a_new_pod_finds_the_last_whole_checkpoint_in_the_store(s3: str, tmp_path: Path) -> None:
    uri = "s3://models/checkpoints"
    place = Place(uri, tmp_path / "pod-1", KEY)
    for step in (2, 4, 6):
        place.keep(checkpoint(place.folder, step), count=2)
    assert place.lost == []
    assert {name.split("/")[0] for name in store.listing(place.remote)} == {"step-00000004", "step-00000006"}
    half = checkpoint(tmp_path, 8)
    store.upload(f"{place.remote}/{half.name}", half, ["state.safetensors"])  # killed on the way
    new = Place(uri, tmp_path / "pod-2", KEY)
    new.fetch()
    found = latest(new.folder)
    assert found is not None
    assert (found.name, (found / "state.json").read_text()) == ("step-00000006", "state 6 state.json")
    again = checkpoint(new.folder, 8, text="mine")
    new.keep(again, count=2)
    found = store.sha256(f"{new.remote}/{again.name}", ["state.safetensors"])
    assert found == {"state.safetensors": store_sha("mine 8 state.safetensors")}
    Place(uri, tmp_path / "pod-3", OTHER).fetch()
    assert latest(Place(uri, tmp_path / "pod-3", OTHER).folder) is None
    new.remove_remote()
    assert store.listing(new.remote) == {}


def store_sha(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def test_a_training_goes_on_while_the_store_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise EnvironmentFault("the S3 store failed")

    monkeypatch.setattr(store, "remove", away)
    place = Place("s3://models/x", tmp_path, KEY)
    place.keep(checkpoint(place.folder, 1), count=2)
    assert "step-00000001 did not reach s3://models/x" in place.lost[0]
    assert json.dumps(place.lost)


def test_another_kind_of_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checkpoints cannot lie there"):
        Place("oci://registry/x", tmp_path, KEY)
