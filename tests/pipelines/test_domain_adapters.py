"""domain-adapters: two domains trained side by side, merged, gated, registered; on the small world, in the local runner."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from small_world import build, halves

from retain.errors import ConfigError
from retain.resolve.recipe import load
from retain_pipelines import arguments, compiling, local

from .test_finetune import command, environment

PIPELINE = "domain-adapters"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    world = halves(build(tmp_path_factory.mktemp("world")))
    words = ["run", "domains.yaml", "--pipeline", PIPELINE, "--param", "merge_weights=north=0.5, south=0.45", "--json"]
    return {**retain(world, *words), "world": world}


def retain(world: Path, *words: str) -> dict[str, Any]:
    """One command in this world, its weights in one place for all steps: what it printed as JSON, and what a person saw."""
    variables = {**environment(world), "RETAIN_MODELS_URI": str(world / "weights")}
    done = subprocess.run(command(*words), env=variables, cwd=world, capture_output=True, text=True, check=False)
    assert done.stdout.strip(), done.stderr[-3000:]
    return {**json.loads(done.stdout), "shown": done.stderr}


@pytest.mark.timeout(1500)
def test_two_domains_are_learned_side_by_side_and_one_model_is_gated(ran: dict[str, Any]) -> None:
    assert (ran["exit_code"], ran["verdict"]["verdict"]) == (0, "pass"), ran["shown"][-3000:]
    assert ran["verdict"]["target"]["tuned"] > 0.8 > 0.1 > ran["verdict"]["target"]["base"]
    assert ran["published"]["name"] == "two-domains"
    assert ran["published"]["digest"] == ran["verdict"]["candidate_digest"]
    (model,) = Path(ran["folder"]).glob("artifacts/*/combine/model")
    merged = json.loads((model / "manifest.json").read_text())["adapters"]
    assert [entry["weight"] for entry in merged] == [0.5, 0.45]
    assert len({entry["digest"] for entry in merged}) == 2


@pytest.mark.timeout(1500)
def test_the_lineage_says_which_rows_each_adapter_learned_from(ran: dict[str, Any]) -> None:
    told = retain(ran["world"], "lineage", "two-domains", "--json")
    learned = {frozenset(_names(part)) for part in told["made_from"] if part["kind"] == "adapter"}
    assert learned == {frozenset({"north", "general"}), frozenset({"south", "general"})}


def _names(node: dict[str, Any]) -> set[str]:
    own = {node["facts"]["name"]} if node["kind"] == "data" else set()
    return own.union(*map(_names, node["made_from"]))


@pytest.mark.timeout(1500)
def test_weights_went_through_one_place_and_not_through_the_artifacts(ran: dict[str, Any]) -> None:
    """Two adapters and their merge; what was scored and published is what lies there."""
    artifacts = list(Path(ran["folder"]).glob("artifacts/**/*.safetensors"))
    assert artifacts, "the steps that read them laid them beside their artifact again"
    assert all(path.is_symlink() and path.resolve().is_relative_to(ran["world"] / "weights") for path in artifacts)
    assert len(list(Path(ran["folder"]).glob("artifacts/**/weights.json"))) == 3
    assert len(list((ran["world"] / "weights").glob("*/*.safetensors"))) == 3


@pytest.mark.timeout(1500)
def test_numbers_before_and_after_line_up(ran: dict[str, Any]) -> None:
    """Equal names, four digits: what KFP's Compare shows in one row."""
    files = sorted(Path(ran["folder"]).glob("artifacts/*/score*/metrics"))
    before, after = (json.loads(path.read_text()) for path in files)
    assert set(before) == set(after) >= {"colours", "sizes", "target"}
    assert all(value == round(value, 4) for value in [*before.values(), *after.values()])


@pytest.mark.timeout(1500)
def test_each_domain_is_a_stage_of_its_own_in_the_tracker(ran: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_HOME", str(ran["world"] / "home"))
    from retain import tracking

    client = tracking.client()
    found = client.search_runs([client.get_experiment_by_name("retain").experiment_id])
    stages = {run.data.tags["retain.stage"]: run.info.status for run in found}
    assert {"train-north", "train-south", "mix-north", "validate", "merge", "gate", "pipeline"} <= set(stages)
    assert set(stages.values()) == {"FINISHED"}


@pytest.mark.timeout(1500)
def test_the_same_adapters_behind_a_router(ran: dict[str, Any]) -> None:
    """Each adapter is scored on all items, routed, and gated as one system."""
    words = ["run", "domains.yaml", "--pipeline", "domain-routing", "--json"]
    found = retain(ran["world"], *words)
    assert (found["exit_code"], found["verdict"]["verdict"]) == (0, "pass"), found["shown"][-3000:]
    assert not found["published"]
    (card,) = Path(found["folder"]).glob("artifacts/*/route/routes/routes.json")
    measured = json.loads(card.read_text())["measured"]
    assert measured["accuracy"] > 0.95 > 0.6 > measured["majority"]
    assert measured["domains"]["north"]["routed"] > 0.8 > 0.1 > measured["domains"]["north"]["base"]
    assert found["verdict"]["candidate_digest"] == measured["model_digest"]


def test_its_arguments_are_complete_and_the_weights_have_no_place_in_a_recipe() -> None:
    recipe = load("domains")
    full = arguments.complete(PIPELINE, recipe, ["merge_weights=north=0.7, south=0.3"])
    spec = compiling.spec_of(compiling.load(PIPELINE))
    assert set(full) == set(spec["root"]["inputDefinitions"]["parameters"])
    assert full["merge_weights"] == "north=0.7, south=0.3"
    assert arguments.complete(PIPELINE, recipe)["merge_weights"] == ""
    local.lint(spec)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["merge_weigths=x"], "did you mean 'merge_weights'"),
        (["train_epochs=3"], "--set train.num_train_epochs=VALUE"),
        (["merge_weights"], "takes NAME=VALUE"),
    ],
)
def test_a_wrong_parameter_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        arguments.complete(PIPELINE, load("domains"), given)


def test_a_parameter_has_the_pipelines_type() -> None:
    full = arguments.complete("regression-gate", load("quickstart"), ["candidate_revision=" + "a" * 40], "s3://a/b")
    assert full["candidate_revision"] == "a" * 40
    with pytest.raises(ConfigError, match="needs --candidate"):
        arguments.complete("regression-gate", load("quickstart"))
    window = arguments.complete("retrain", load("quickstart"), ["data_window_days=7"])
    assert (window["data_window_days"], type(window["data_window_days"])) == (7, int)
    routed = arguments.complete("domain-routing", load("domains"), ["route_settings={min_confidence: 0.7}"])
    assert routed["route_settings"] == {"min_confidence": 0.7}
    assert arguments._typed("publish", "Boolean", "true") is True
    for given in ("data_window_days=soon", "data_window_days=1.5"):
        with pytest.raises(ConfigError, match="no number"):
            arguments.complete("retrain", load("quickstart"), [given])
