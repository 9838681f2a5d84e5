"""What a person says about a model, on the command line: approve and waive."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.artifacts import write_json
from retain.errors import IntegrityError, UsageError
from retain.gate.given import read
from retain.publish import keys
from retain.publish.versions import open_registry
from retain_pipelines import approval
from retain_pipelines.cli import governance
from retain_pipelines.runs import LABEL

from ..retain.publish.conftest import verdict_for

RECIPE = {"schema": "retain.recipe/1", "digest": "sha256:r", "recipe": {"publish": {"name": "orders"}, "data": {}}, "base": {}, "sources": []}  # fmt: skip


@pytest.fixture
def waiting(tmp_path: Path, tiny_llama: Path, registry_home: Path) -> Callable[..., Path]:
    """waiting(**changes of the verdict) → a run's folder as the laptop's engine leaves it."""

    def build(**changes: Any) -> Path:
        run = tmp_path / "runs" / "mine-1"
        place = run / "artifacts" / "finetune-1"
        model = Path(shutil.copytree(tiny_llama, place / "merge" / "model"))
        write_json(model / "manifest.json", {"schema": "retain.manifest/1", "files": digest.model_manifest(model)})
        other = Path(shutil.copytree(model, place / "a-merge" / "model"))  # another strength's, say
        (other / "generation_config.json").write_text("{}")
        write_json(other / "manifest.json", {"schema": "retain.manifest/1", "files": digest.model_manifest(other)})
        said = {"action": "wait", "exit_code": 5, **changes}
        write_json(place / "gate" / "verdict" / "verdict.json", verdict_for(model, **said))
        write_json(place / "resolve" / "recipe", RECIPE)
        write_json(run / LABEL, {"run_id": "mine-1"})
        return run

    return build


def test_a_person_says_yes_and_that_very_digest_is_published(waiting: Callable[..., Path], capsys: Any) -> None:
    run = waiting()
    governance.approve(str(run), by="the release owner", json=True)
    (version,) = open_registry("orders").all()
    assert version.digest == digest.of_model(run / "artifacts" / "finetune-1" / "merge" / "model")
    assert (version.tags["retain.approved_by"], version.tags["retain.run_id"]) == ("the release owner", "mine-1")
    assert json.loads(capsys.readouterr().out)["digest"] == version.digest
    governance.approve(str(run), by="the release owner")
    assert len(open_registry("orders").all()) == 1


def test_a_verdicts_folder_will_do_with_model_and_recipe_named(waiting: Callable[..., Path], tmp_path: Path) -> None:
    place = waiting() / "artifacts" / "finetune-1"
    named = {"model": str(place / "merge" / "model"), "recipe": str(place / "resolve" / "recipe")}
    governance.approve(str(place / "gate" / "verdict"), by="me", **named)
    assert len(open_registry("orders").all()) == 1
    with pytest.raises(IntegrityError, match="not there"):
        approval.find(place / "gate")


def test_a_merge_that_was_not_repeated_is_found_in_the_earlier_run(waiting: Callable[..., Path]) -> None:
    run = waiting()
    shutil.move(run / "artifacts" / "finetune-1" / "merge", run.parent / "mine-0" / "artifacts" / "merge")
    governance.approve(str(run), by="me")
    assert len(open_registry("orders").all()) == 1


@pytest.mark.parametrize("changes", [{"verdict": "regressed", "exit_code": 3, "action": "stop"}, {"exit_code": 0, "action": "publish"}])  # fmt: skip
def test_nothing_else_is_let_out(waiting: Callable[..., Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="nothing waits"):
        governance.approve(str(waiting(**changes)), by="me")
    with pytest.raises(UsageError, match="nothing waits"):
        governance.approve(str(tmp_path / "nowhere"), by="me")
    assert open_registry("orders").all() == []


def test_the_same_checks_as_a_publication(waiting: Callable[..., Path], capsys: Any) -> None:
    run = waiting(waivers=[{"benchmark": "core_facts", "who": "a", "why": "b", "until": "2020-01-01", "holds": True}])
    with pytest.raises(SystemExit) as left:
        governance.approve(str(run), by="me")
    assert left.value.code == 6
    assert "expired" in capsys.readouterr().err
    with pytest.raises(UsageError, match="has a name"):
        governance.approve(str(run), by=" ")


def test_a_clusters_run_is_approved_from_the_object_store(waiting: Callable[..., Path], s3: str) -> None:
    from retain import s3 as store

    place = waiting() / "artifacts" / "finetune-1"
    files = {p.relative_to(place).as_posix(): digest.of_file(p).removeprefix("sha256:") for p in place.rglob("*") if p.is_file()}  # fmt: skip
    store.upload("s3://models/root/finetune-without-forgetting/run-7", place, files)
    governance.approve("run-7", by="me", artifacts="s3://models/root")
    assert len(open_registry("orders").all()) == 1


@pytest.fixture
def closed(tmp_path: Path, registry_home: Path) -> Path:
    reasons = [
        {"code": code, "benchmark": name, "got": 4.0, "limit": 1.0, "items_needed": 0, "role": "base"}
        for code, name in (("benchmark_drop", "core_words"), ("macro_margin", ""))
    ]
    said = {"schema": "retain.verdict/1", "verdict": "regressed", "candidate_digest": "sha256:c", "reasons": reasons, "policy": {}}  # fmt: skip
    write_json(tmp_path / "verdict.json", said)
    return tmp_path / "verdict.json"


def test_waive_signs_keeps_and_says_what_is_missing(
    closed: Path, key_pair: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "waivers.json"
    how = {"verdict": closed, "who": "the owner", "why": "known fault", "until": "2999-01-01", "key": key_pair[0]}
    governance.waive("core_words", **how, file=str(file))
    said = capsys.readouterr().out
    assert "add it to gate.waiver_keys\n  " + keys.public_of(key_pair[0]) in said
    assert "stays closed all the same: macro_margin" in said
    assert [w.benchmark for w in read(file)] == ["core_words"]
    governance.waive("core_words", **how, json=True)
    assert json.loads(capsys.readouterr().out)["candidate_digest"] == "sha256:c"
    with pytest.raises(UsageError, match="did you mean 'core_words'"):
        governance.waive("core_word", **how)
    with pytest.raises(UsageError, match="expired"):
        governance.waive("core_words", **{**how, "until": "2020-01-01"})
