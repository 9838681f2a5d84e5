"""regression-gate: its form, its first task, and its endings in the local runner."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retain import digest
from retain.config import parse
from retain.errors import ConfigError, IntegrityError
from retain.gate.config import GatePolicy
from retain.pair import work as pair
from retain.publish import lineage
from retain.resolve.recipe import load
from retain.resolve.work import target_data
from retain_pipelines import compiling, local, regression_gate
from retain_pipelines.endings import FINALS, STOPS

from ..retain.close.receiver import receiving
from ..retain.gate.conftest import BASE, TUNED, draw, scores_folder  # noqa: F401 (fixtures)

TOY = Path(__file__).with_name("toy_regression_gate.py")
POLICY = parse(GatePolicy, {"macro_margin_points": 3.0, "target": {"rule": "none"}}).as_parameter()
ENDINGS = ("passed", *STOPS)


def form(**changes: Any) -> dict[str, Any]:
    return {**regression_gate.arguments(load("quickstart"), "s3://models/tuned"), **changes}


def test_the_arguments_are_the_pipelines_parameters_in_full() -> None:
    spec = compiling.spec_of(regression_gate.regression_gate)
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert set(form()) == set(parameters)
    assert form()["candidate_model"] == "s3://models/tuned"
    assert form()["gate_max_drop"] == 2.0
    assert parameters["gate_settings"]["defaultValue"]["target.rule"] == "none"


def test_the_settings_are_a_recipes_settings() -> None:
    recipe = pair.settings(form())
    assert recipe.gate.macro_margin_points == 2.0
    assert [task.name for task in recipe.score.tasks] == [task.name for task in load("quickstart").score.tasks]
    assert (recipe.gate.target.rule, recipe.score.target.metric) == ("none", "none")
    assert pair.settings(form(gate_settings={"alpha": 0.1})).gate.alpha == 0.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gate_settings": {"aplha": 0.1}}, "did you mean 'alpha'"),
        ({"score_settings": {"tasks.0.limmit": 3}}, "did you mean 'limit'"),
        ({"gate_settings": {"target.rule": "improved"}}, "can only be 'none' here"),
        ({"gate_max_drop": -1.0}, "macro_margin_points"),
    ],
)
def test_a_wrong_setting_is_found_before_anything_is_fetched(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pair.pair(form(**changes))


def test_two_addresses_become_two_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))
    one, two = _model(tmp_path / "one", 1.0), _model(tmp_path / "two", 2.0)
    found = pair.pair(form(base_model=str(one), candidate_model=str(two)))
    assert found.base["uri"] == str(one)
    assert found.base["digest"] != found.candidate["digest"]
    assert found.gate_plan.detectable_points > 0
    with pytest.raises(ConfigError, match="candidate_model is empty"):
        pair.pair(form(base_model=str(one), candidate_model=""))
    with pytest.raises(ConfigError, match="no such file or folder"):
        pair.pair(form(base_model=str(one), candidate_model=str(tmp_path / "three")))


def test_attempts_are_counted_by_what_the_candidate_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETAIN_HOME", str(tmp_path / "home"))
    one, two = _model(tmp_path / "one", 1.0), _model(tmp_path / "two", 2.0)
    rows, more = tmp_path / "rows.jsonl", tmp_path / "more.jsonl"
    rows.write_text("{}\n")
    more.write_text("{}\n{}\n")

    def data(named: str = "") -> str:
        return pair.pair(form(base_model=str(one), candidate_model=str(two), candidate_data=named)).data

    sources = [{"part": part, "split": "train", "path": part, "digest": digest.of_file(file)} for part, file in (("target", rows), ("replay", more))]  # fmt: skip
    assert data() == ""
    assert (
        data(f" {rows}, {more} ") == data(f"{more},{digest.of_file(rows)}") != data(str(rows)) == target_data(sources)
    )
    with pytest.raises(ConfigError, match="no such file or folder"):
        data(str(tmp_path / "none.jsonl"))
    node = lineage.build(
        "sha256:two", {}, {"baselines": [], "verdict": "pass", "policy_digest": ""}, {"data": {"datasets": sources}}
    )
    (two / "lineage.json").write_text(json.dumps(lineage.as_dict(node)))
    assert data() == target_data(sources)  # what the model's own lineage says, as its run counted
    assert data(str(more)) != data()


def test_the_pipeline_counts_by_what_its_first_task_found() -> None:
    spec = compiling.spec_of(regression_gate.regression_gate)
    tasks = next(c["dag"]["tasks"] for c in spec["components"].values() if "gate" in c.get("dag", {}).get("tasks", {}))
    assert tasks["gate"]["inputs"]["parameters"]["data"]["taskOutputParameter"] == {"outputParameterKey": "data", "producerTask": "pair"}  # fmt: skip


def _model(folder: Path, value: float) -> Path:
    """The smallest thing that counts as a model folder."""
    from safetensors.numpy import save_file

    folder.mkdir()
    save_file({"w": np.full(4, value, dtype=np.float32)}, str(folder / "model.safetensors"))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    return folder


PATHS = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.fixture(scope="module")
def decided() -> dict[str, Any]:
    """The toy pipeline, compiled in a process of its own."""
    environment = {**os.environ, **PATHS}
    done = subprocess.run([sys.executable, str(TOY)], capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps' processes: this checkout's code, a home of their own, no tracker."""
    for name, value in {**PATHS, "RETAIN_HOME": str(tmp_path / "home"), "RETAIN_RUN_ID": "run", "RETAIN_TRACKING": "later"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def _run(decided: dict[str, Any], base: Path, candidate: Path, folder: Path) -> local.Ran:
    arguments = {"config": POLICY, "base": str(base), "candidate": str(candidate)}
    return local.run(decided, arguments, folder, finals=ENDINGS, cache=None, show=lambda line: None)


def test_the_run_ends_as_passed_or_red_without_a_training(
    decided: dict[str, Any],
    scores_folder: Callable[..., Path],  # noqa: F811
    draw: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
    here: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with receiving() as webhook:
        monkeypatch.setenv("RETAIN_WEBHOOK_URL", webhook.url)
        _passed_and_red(decided, scores_folder, draw, tmp_path)
    assert [(m["pipeline"], m["verdict"], m["exit_code"], m["state"]) for m in webhook.messages] == [("decided", "pass", 0, "SUCCEEDED"), ("decided", "regressed", 3, "FAILED")]  # fmt: skip


def _passed_and_red(
    decided: dict[str, Any],
    scores_folder: Callable[..., Path],  # noqa: F811
    draw: Callable[..., Any],  # noqa: F811
    tmp_path: Path,
) -> None:
    before, same = draw({"reading": (1500, 0.0, 0.04), "maths": (1500, 0.0, 0.04)})
    base = scores_folder(tmp_path / "base", before, BASE)
    good = _run(decided, base, scores_folder(tmp_path / "same", same, TUNED), tmp_path / "good")
    assert (good.exit_code, good.endings["passed"], good.endings["close"]) == (0, 0, 0)
    worse = {task: np.where(np.arange(len(column)) % 4 == 0, 0.0, column) for task, column in same.items()}
    bad = _run(decided, base, scores_folder(tmp_path / "worse", worse, digest.of_json("worse")), tmp_path / "bad")
    assert (bad.exit_code, bad.endings["stop-regressed"], bad.endings["close"]) == (3, 3, 0)
    verdicts = [json.loads(next((tmp_path / name).glob("artifacts/*/gate/verdict/verdict.json")).read_text()) for name in ("good", "bad")]  # fmt: skip
    assert [verdict["attempt"] for verdict in verdicts] == [1, 2]  # another candidate on the same items
    report = next((tmp_path / "bad").glob("artifacts/*/gate/report"))
    assert "Regressed" in report.read_text(encoding="utf-8") or "regressed" in report.read_text(encoding="utf-8")


def test_scores_that_do_not_match_end_as_integrity(
    decided: dict[str, Any],
    scores_folder: Callable[..., Path],  # noqa: F811
    tmp_path: Path,
    here: None,
) -> None:
    base = scores_folder(tmp_path / "base", {"reading": [1.0] * 50}, BASE)
    other = scores_folder(tmp_path / "other", {"reading": [1.0] * 40}, TUNED)
    ran = _run(decided, base, other, tmp_path / "run")
    assert (ran.exit_code, ran.endings["stop-integrity"]) == (int(IntegrityError.exit_code), 6)


def _last_tasks(spec: dict[str, Any], tasks: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps (not the branches) that no other task of the same level waits for."""
    awaited = {name for task in tasks.values() for name in task.get("dependentTasks", [])}
    return [task for name, task in tasks.items() if name not in awaited and "executorLabel" in spec["components"][task["componentRef"]["name"]]]  # fmt: skip


def test_every_final_task_of_every_pipeline_has_an_exit_code() -> None:
    for name in compiling.PIPELINES:
        spec = compiling.spec_of(compiling.load(name))
        ends = {
            task["taskInfo"]["name"]
            for key, c in spec["components"].items()
            if "condition" in key
            for task in _last_tasks(spec, c["dag"]["tasks"])
        }
        assert ends <= set(FINALS), name
        assert len(ends) == 5, name
