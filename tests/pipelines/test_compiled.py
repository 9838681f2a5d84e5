"""What a cluster gets: the kept IR is what the code compiles to, parses against KFP's protos, and keeps the house's rules."""

from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler
from kfp.pipeline_spec import pipeline_spec_pb2

from retain import images
from retain_pipelines import compiling, local

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where PyYAML was built with libyaml
KEPT = Path(__file__).resolve().parents[2] / "pipelines" / "compiled"


def first(path: Path) -> dict:
    """The first document of a file: the pipeline's spec."""
    return next(iter(yaml.load_all(path.read_text(), Loader=LOADER)))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("compiled")
    return {path.stem: first(path) for path in compiling.compile_all(folder)}


def test_the_kept_ir_is_what_the_code_compiles_to(compiled: dict) -> None:
    kept = {path.stem: first(path) for path in KEPT.glob("*.yaml")}
    assert set(kept) == set(compiling.PIPELINES)
    assert kept == compiled, "run `make compile`"


def test_it_is_what_kfps_own_compiler_writes(compiled: dict, tmp_path: Path) -> None:
    name = "domain-routing"
    compiler.Compiler().compile(compiling.load(name), str(tmp_path / "own.yaml"))
    assert first(tmp_path / "own.yaml") == compiled[name]


def test_every_ir_parses_against_the_protos(compiled: dict) -> None:
    for spec in compiled.values():
        parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
        assert parsed.root.dag.tasks


def test_no_ir_has_a_trap_of_the_local_runner(compiled: dict) -> None:
    for spec in compiled.values():
        local.lint(spec)


def test_images_are_pinned_and_nothing_is_installed_in_a_pod(compiled: dict) -> None:
    known = {images.reference("cpu"), images.reference("gpu")}
    for spec in compiled.values():
        for executor in spec["deploymentSpec"]["executors"].values():
            assert executor["container"]["image"] in known
            assert "pip install" not in str(executor["container"])


def test_every_parameter_has_a_default_without_a_null(compiled: dict) -> None:
    for spec in compiled.values():
        for name, parameter in spec["root"]["inputDefinitions"]["parameters"].items():
            assert "defaultValue" in parameter, name
            assert None not in (
                parameter["defaultValue"].values() if isinstance(parameter["defaultValue"], dict) else []
            )


GROUPS = {"base", "candidate", "compress", "data", "gate", "merge", "publish", "route", "run", "score", "train"}


def test_the_run_form_groups_by_name_alone_and_stays_short(compiled: dict) -> None:
    """KFP's form lists parameters by the alphabet and a dict as one line of JSON, in an editor of 20 lines."""
    for name, spec in compiled.items():
        defaults = {key: entry["defaultValue"] for key, entry in spec["root"]["inputDefinitions"]["parameters"].items()}
        assert {key.partition("_")[0] for key in defaults} <= GROUPS, name
        dicts = {key: value for key, value in defaults.items() if isinstance(value, dict)}
        assert all(key.endswith("_settings") for key in dicts)
        # A retraining asks four more things: its window's length and end, the champion, and what it starts from.
        assert len(defaults) - len(dicts) <= (16 if name == "retrain" else 14), name
        for key, value in dicts.items():
            files = [path for path in value if path.startswith("datasets.")]  # one run has as many as it has
            assert len(value) - len(files) <= 18, (name, key)
            assert not [path for path, setting in value.items() if isinstance(setting, dict | list)], (name, key)


def test_before_and_after_have_one_name_for_each_number(compiled: dict) -> None:
    """Compare shows metrics of equal names side by side: base and candidate are scored by one component."""
    for name, spec in compiled.items():
        tasks = [
            t for c in (spec["root"], *spec["components"].values()) for t in c.get("dag", {}).get("tasks", {}).values()
        ]
        scored = {
            t["taskInfo"]["name"]: t["componentRef"]["name"]
            for t in tasks
            if t["taskInfo"]["name"].startswith("score-")
        }
        assert {"score-base", "score-candidate"} <= set(scored), name
        executors = {spec["components"][component]["executorLabel"] for component in scored.values()}
        assert {label.rstrip("-0123456789") for label in executors} == {"exec-score"}, name


NEVER_CACHED = {"resolve", "pair", "renew", "gate", "publish", "stop", "close"}


def test_what_may_not_come_from_a_cache_does_not_and_all_the_rest_may(compiled: dict) -> None:
    for name, spec in compiled.items():
        dags = (spec["root"], *(c for c in spec["components"].values() if "dag" in c))
        for task in (task for dag in dags for task in dag["dag"]["tasks"].values()):
            component = spec["components"][task["componentRef"]["name"]]
            if "executorLabel" in component:
                step = component["executorLabel"].removeprefix("exec-").rstrip("-0123456789")
                kept = task.get("cachingOptions", {}).get("enableCache", False)
                assert kept == (step not in NEVER_CACHED), (name, step)


def test_every_pipeline_ends_in_its_exit_handler(compiled: dict) -> None:
    for name, spec in compiled.items():
        tasks = spec["root"]["dag"]["tasks"]
        last = tasks.pop("close")
        assert last["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}, name
        assert last["dependentTasks"] == list(tasks), "everything else stands inside the handler"
        assert len(tasks) == 1
        assert "taskFinalStatus" in last["inputs"]["parameters"]["status"]


def test_a_step_has_at_most_three_artifacts(compiled: dict) -> None:
    for spec in compiled.values():
        for name, component in spec["components"].items():
            assert len(component.get("outputDefinitions", {}).get("artifacts", {})) <= 3, name
