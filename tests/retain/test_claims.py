"""A folder that takes a model: who may write there, what is refused, and what is left by an error and by a kill."""

import json
import os
import signal
from pathlib import Path

import pytest

from retain import digest, models
from retain.claims import MARK, claimed
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.publish import verdicts


def write_model(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")


def finish(folder: Path) -> None:
    (folder / "manifest.json").write_text(json.dumps({"schema": "retain.manifest/1", "files": digest.model_manifest(folder)}))  # fmt: skip


@pytest.mark.parametrize("out", [".", "inside", "a/..", ".."])
def test_an_input_is_never_written_to(out: str, tmp_path: Path) -> None:
    base = tmp_path / "around" / "base"
    write_model(base)
    (base / "a").mkdir()
    with pytest.raises(ConfigError, match="folder of its own"), claimed(base / out, [tmp_path, base]):
        pytest.fail("claimed")
    assert sorted(p.name for p in base.iterdir()) == ["a", "config.json", "model.safetensors"]


def test_another_model_is_neither_mixed_with_nor_taken_away(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for place in (out, out / "nested"):
        write_model(place)
        with pytest.raises(ConfigError, match="holds another model"), claimed(out, []):
            pytest.fail("claimed")
        assert (place / "model.safetensors").is_file()
        for name in ("model.safetensors", "config.json"):
            (out / name).unlink(missing_ok=True)


def test_an_earlier_model_of_ours_gives_way_and_an_error_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with claimed(out, []):
        write_model(out)
        finish(out)
    (out / "notes of mine").write_text("kept")
    models.check_folder(out)

    def fails() -> None:
        with claimed(out, []):
            assert [p.name for p in digest.model_files(out)] == []
            write_model(out)
            raise ConfigError("some fault")

    with pytest.raises(ConfigError, match="some fault"):
        fails()
    assert [p.name for p in out.iterdir()] == ["notes of mine"]


def test_killed_it_does_not_look_whole_and_the_next_run_takes_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    if (child := os.fork()) == 0:
        with claimed(out, []):
            write_model(out)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (out / MARK).is_file()
    for use in (models.check_folder, verdicts.checked_manifest):
        with pytest.raises(IntegrityError, match="not finished"):
            use(out)
    with claimed(out, []):
        assert digest.model_files(out) == []
        write_model(out)
        finish(out)
    assert not (out / MARK).exists()
    models.check_folder(out)


def test_of_two_at_once_one_is_refused(tmp_path: Path) -> None:
    with claimed(tmp_path / "out", []):
        write_model(tmp_path / "out")
        models.check_folder(tmp_path / "out")  # the process that writes it may look
        with pytest.raises(EnvironmentFault, match="another process"), claimed(tmp_path / "out", []):
            pytest.fail("claimed")
        assert (tmp_path / "out" / "model.safetensors").is_file()
