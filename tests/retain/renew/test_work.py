"""What a retraining pins first: champion, base, start and the files of the window."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.errors import ConfigError, IntegrityError
from retain.publish import ledger
from retain.publish.versions import open_registry
from retain.renew import door
from retain.renew.config import RenewConfig

from ..publish.conftest import verdict_for

FORM = {**RenewConfig().as_parameter(), "publish_name": "orders", "run_settings": {}, "data_settings": {"checks.pii": "warn"}}  # fmt: skip


@pytest.fixture
def form(tiny_llama: Path, tmp_path: Path, registry_home: Path) -> dict[str, Any]:
    """A filled form; rows of two days lie in the folder."""
    for day in ("2026-02-27", "2026-03-01"):
        (tmp_path / f"rows-{day}.jsonl").write_text("{}\n")
    return {**FORM, "base_model": str(tiny_llama), "data_id": str(tmp_path / "rows-2026-03-01.jsonl")}


@pytest.fixture
def served(tiny_llama: Path, tmp_path: Path) -> Path:
    model = Path(shutil.copytree(tiny_llama, tmp_path / "served"))
    (model / "generation_config.json").write_text("{}")
    return model


def published(model: Path, base: str) -> None:
    said = verdict_for(model, baselines=[{"role": "base", "digest": base}])
    registry = open_registry("orders")
    version, _ = registry.create(f"file://{model}", digest.of_model(model), ledger.tag(said))
    registry.set_alias("champion", version.version)


def test_before_the_first_promotion_the_base_takes_the_champions_place(form: dict[str, Any], tiny_llama: Path) -> None:
    data_id, data_settings, champion, start = door.run(form)
    assert champion == start == {"uri": str(tiny_llama), "revision": "", "digest": digest.of_model(tiny_llama)}
    assert (data_id, data_settings) == (form["data_id"], {"checks.pii": "warn"})


def test_the_alias_becomes_a_digest_and_the_training_starts_where_it_is_told(
    form: dict[str, Any], tiny_llama: Path, served: Path
) -> None:
    published(served, digest.of_model(tiny_llama))
    _, _, champion, start = door.run(form)
    assert champion == {"uri": f"file://{served}", "revision": "", "digest": digest.of_model(served)}
    assert start["digest"] == digest.of_model(tiny_llama)
    _, _, champion, start = door.run({**form, "base_start": "champion"})
    assert start == champion
    assert door.run({**form, "base_champion": "another"})[2]["digest"] == digest.of_model(tiny_llama)


def test_generations_of_another_base_are_not_added_up(form: dict[str, Any], served: Path, capsys: Any) -> None:
    published(served, "sha256:" + "9" * 64)
    with pytest.raises(SystemExit) as left:
        door.run(form)
    assert left.value.code == int(IntegrityError.exit_code)
    assert "came from another base" in capsys.readouterr().err


def test_the_window_becomes_files_of_the_form(form: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    window = {"data_window_days": 3, "data_window_end": "2026-03-02", "data_id": str(tmp_path / "rows-{day}.jsonl")}
    settings = {"datasets.0.validation_share": 0.1, "datasets.1.path": "test.jsonl", "datasets.1.split": "test", "checks.pii": "warn"}  # fmt: skip
    data_id, found, _, _ = door.run({**form, **window, "data_settings": settings})
    assert data_id == str(tmp_path / "rows-2026-02-27.jsonl")
    assert found == {
        "checks.pii": "warn", "datasets.0.validation_share": 0.1, "datasets.0.name": "rows-2026-02-27", "datasets.1.path": str(tmp_path / "rows-2026-03-01.jsonl"),
        "datasets.1.validation_share": 0.1, "datasets.1.name": "rows-2026-03-01", "datasets.2.path": "test.jsonl", "datasets.2.split": "test",
    }  # fmt: skip
    assert "no file   " + str(tmp_path / "rows-2026-02-28.jsonl") in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"base_start": "nowhere"}, {"data_window_days": -1}, {"data_window_end": "soon"}, {"data_window_days": 3}])  # fmt: skip
def test_wrong_settings_are_refused(form: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(SystemExit) as left:
        door.run({**form, **change})
    assert left.value.code == int(ConfigError.exit_code)


def test_the_ledger_is_in_the_registry(form: dict[str, Any], tiny_llama: Path, served: Path, tmp_path: Path) -> None:
    base = digest.of_model(tiny_llama)
    published(served, base)
    assert [(e.generation, e.base_digest, e.drop_points) for e in ledger.entries("orders")] == [(1, base, 1.0)]
    said = verdict_for(tiny_llama, baselines=[{"role": "base", "digest": base}], candidate_digest="sha256:new")
    ledger.write(tmp_path / "ledger.json", "orders", said)
    kept = json.loads((tmp_path / "ledger.json").read_text())
    assert [(e["generation"], e["candidate_digest"]) for e in kept["entries"]] == [(1, digest.of_model(served)), (2, "sha256:new")]  # fmt: skip
    assert kept["balance"]["generations"] == 2
    ledger.write(tmp_path / "again.json", "orders", {**said, "candidate_digest": digest.of_model(served)})
    assert len(json.loads((tmp_path / "again.json").read_text())["entries"]) == 1
