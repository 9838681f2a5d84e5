"""The main job, whole: rows in; a gated, registered model out, or a closed gate. On a world small enough for a test."""

import json
import random
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import small_world
from small_world import build, command, environment, outcome, retain

from retain import digest

STEPS = [
    "resolve",
    "validate",
    "rehearse",
    "template",
    "mix",
    "train",
    "merge",
    "score-base",
    "score-candidate",
    "judge",
    "gate",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Base, tasks, rows and recipes; the home folder is shared, as on a real machine."""
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def careful(world: Path) -> dict[str, Any]:
    done = retain(world, "run", "careful.yaml", "--json")
    return {**outcome(done), "shown": done.stderr, "code": done.returncode}


@pytest.mark.timeout(600)
def test_a_careful_recipe_is_gated_and_registered(careful: dict[str, Any]) -> None:
    assert (careful["code"], careful["verdict"]["verdict"]) == (0, "pass")
    assert careful["verdict"]["target"]["tuned"] > 0.9 > 0.1 > careful["verdict"]["target"]["base"]
    assert careful["published"]["name"] == "small-world-careful"
    assert careful["published"]["aliases"] == ["candidate"]
    assert [title for title in STEPS if f"── {title}\n" in careful["shown"]] == STEPS


def test_gate_registry_and_files_carry_the_same_digest(careful: dict[str, Any]) -> None:
    model = next(Path(careful["folder"]).glob("artifacts/*/merge/model"))
    assert digest.of_model(model) == careful["verdict"]["candidate_digest"] == careful["published"]["digest"]


def test_a_person_sees_what_was_refused_mixed_and_learned(careful: dict[str, Any]) -> None:
    for text in ("refused    1  not_json", "refused    1  no_answer", "tokens/s", "loss", "proof "):
        assert text in careful["shown"], text
    assert re.search(r"replay (4\.[5-9]|5\.[0-5])\d % of them", careful["shown"])
    assert "Traceback" not in careful["shown"]
    page = Path(careful["report"]).read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>\n<!-- ")
    assert "colours" in page


def test_mlflow_has_one_parent_with_its_stages(
    careful: dict[str, Any], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETAIN_HOME", str(world / "home"))
    from retain import tracking

    client = tracking.client()
    experiment = client.get_experiment_by_name("retain")
    runs = client.search_runs([experiment.experiment_id], f"tags.`retain.run_id` = '{Path(careful['folder']).name}'")
    by_stage = {run.data.tags["retain.stage"]: run for run in runs}
    assert set(by_stage) >= {
        "pipeline",
        "validate",
        "template",
        "mix",
        "train",
        "merge",
        "score-base",
        "score-candidate",
        "gate",
        "publish",
    }
    parent = by_stage.pop("pipeline")
    assert {run.data.tags["mlflow.parentRunId"] for run in by_stage.values()} == {parent.info.run_id}
    assert parent.data.params["train.method"] == "lora"
    assert {"base/colours", "tuned/colours", "delta/colours", "delta/target"} <= set(parent.data.metrics)
    assert by_stage["validate"].inputs.dataset_inputs


@pytest.mark.timeout(600)
def test_a_reckless_recipe_is_blocked_with_its_reasons(world: Path, careful: dict[str, Any]) -> None:
    done = retain(world, "run", "reckless.yaml", "--json")
    found = outcome(done)
    assert (done.returncode, found["exit_code"], found["verdict"]["verdict"]) == (3, 3, "regressed")
    assert {reason["code"] for reason in found["verdict"]["reasons"]} >= {"macro_margin", "benchmark_drop"}
    assert not found["published"]
    assert Path(found["report"]).is_file()
    assert "── validate  (unchanged: kept from an earlier run)" in done.stderr


@pytest.mark.timeout(600)
def test_a_pass_may_wait_for_a_person(world: Path, careful: dict[str, Any]) -> None:
    """Only the gate is repeated (and is the same attempt); what is then approved is the very model that passed."""
    settings = ["--set", "gate.approval=required", "--set", "publish.name=small-world-approved"]
    done = retain(world, "run", "careful.yaml", *settings, "--json")
    found = outcome(done)
    assert (done.returncode, found["verdict"]["action"], found["verdict"]["attempt"]) == (5, "wait", 1)
    assert not found["published"]
    assert "── merge  (unchanged: kept from an earlier run)" in done.stderr
    published = json.loads(retain(world, "approve", found["folder"], "--by", "the release owner", "--json").stdout)
    assert published["digest"] == careful["published"]["digest"]
    assert (published["name"], published["version"]) == ("small-world-approved", 1)


@pytest.mark.timeout(600)
def test_a_smaller_form_is_gated_again_and_is_what_ships(world: Path, careful: dict[str, Any]) -> None:
    settings = ["--set", "compress.method=int8", "--set", "publish.name=small-world-smaller"]
    done = retain(world, "run", "careful.yaml", *settings, "--json")
    found = outcome(done)
    verdict, run = found["verdict"], Path(found["folder"])
    assert (done.returncode, verdict["verdict"]) == (0, "pass"), done.stderr[-3000:]
    assert verdict["attempt"] > 1, "it is another candidate on the same items"
    assert "── merge  (unchanged: kept from an earlier run)" in done.stderr
    small = next(run.glob("artifacts/*/compress/compressed"))
    assert digest.of_model(small) == verdict["candidate_digest"] == found["published"]["digest"]
    assert verdict["candidate_digest"] != careful["verdict"]["candidate_digest"]
    tree = retain(world, "lineage", "small-world-smaller").stdout
    assert re.search(rf"^model \w+ \(compressed int8\)\n├─ model {careful['published']['digest'][7:19]}", tree), tree


def test_a_form_made_with_the_verbs_needs_a_verdict_of_its_own(world: Path, careful: dict[str, Any]) -> None:
    """compress, score, gate, publish, as pipelines/README.md has them; this form has forgotten too much."""
    run = Path(careful["folder"])
    model, dataset, passed = (str(next(run.glob(f"artifacts/*/{place}"))) for place in ("merge/model", "validate/dataset", "gate/verdict"))  # fmt: skip
    made = retain(world, "compress", "--model", model, "--method", "magnitude", "--set", "sparsity=0.9", "--out", "sparse")  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "it is another model: score it and gate it" in made.stdout
    how = ["--baseline", "base", "--recipe", "careful.yaml", "--dataset", dataset, "--out", "sparse-scores"]
    assert retain(world, "score", "--model", "sparse", *how).returncode == 0
    scores = ["--base", "sparse-scores/base", "--candidate", "sparse-scores/candidate", "--recipe", "careful.yaml"]
    assert retain(world, "gate", *scores, "--out", "sparse-verdict").returncode == 3
    for verdict, told in (("sparse-verdict", "the gate did not pass"), (passed, "for another model")):
        refused = retain(world, "publish", "careful.yaml", "--model", "sparse", "--verdict", verdict, "--out", "sparse-out")  # fmt: skip
        assert (refused.returncode, told in refused.stderr) == (6, True), refused.stderr


@pytest.mark.timeout(900)
def test_a_second_generation_is_judged_against_the_champion_and_the_base(world: Path, careful: dict[str, Any]) -> None:
    assert retain(world, "promote", "small-world-careful", "--version", "1").returncode == 0
    rows = (world / "train.jsonl").read_text().splitlines(keepends=True)
    for day, part in (("01", rows[::2]), ("03", rows[1::2])):  # the second of January has no file
        (world / f"rows-2026-01-{day}.jsonl").write_text("".join(part))
    window = ["--window-days", "3", "--window-end", "2026-01-04", "--set", "data.datasets.0.path=rows-{day}.jsonl"]
    done = retain(world, "retrain", "careful.yaml", *window, "--set", "train.seed=3", "--set", "data.checks.min_rows=8", "--json")  # fmt: skip
    found = outcome(done)
    verdict = found["verdict"]
    assert (found["exit_code"], verdict["verdict"], verdict["attempt"]) == (0, "pass", 1), done.stderr[-3000:]
    assert verdict["baselines"][0] == {"role": "champion", "digest": careful["verdict"]["candidate_digest"]}
    assert verdict["baselines"][1] == careful["verdict"]["baselines"][0]
    assert (verdict["macro"]["margin_points"], verdict["cumulative"]["macro"]["margin_points"]) == (6.0, 12.0)
    assert verdict["cumulative"]["target"]["drop_points"] < -80
    assert f"no file   {world / 'rows-2026-01-02.jsonl'}" in done.stderr
    assert (found["published"]["version"], found["published"]["aliases"]) == (2, ["candidate"])
    ledger = json.loads(next(Path(found["folder"]).glob("artifacts/*/gate/verdict/ledger.json")).read_text())
    assert [entry["candidate_digest"] for entry in ledger["entries"]] == [careful["verdict"]["candidate_digest"], verdict["candidate_digest"]]  # fmt: skip
    page = Path(found["report"]).read_text(encoding="utf-8")
    assert "<h2>Generations</h2>" in page
    assert "<h2>Against the original base</h2>" in page


@pytest.mark.timeout(600)
def test_fresh_rows_tell_whether_to_train_again(world: Path, careful: dict[str, Any]) -> None:
    """Other rows of the same kind: all is well. The house rule changed again: the exit code says so."""
    assert retain(world, "promote", "small-world-careful", "--version", "1").returncode == 0
    rng = random.Random(9)
    fresh = [small_world._chat(rng, key) for key in small_world.KEYS for _ in range(9)]
    changed = [{"messages": [row["messages"][0], {"role": "assistant", "content": "open"}]} for row in fresh]
    for name, rows, code in (("fresh", fresh, 0), ("changed", changed, 3)):
        small_world._jsonl(world / f"{name}.jsonl", rows)
        done = retain(world, "drift", "small-world-careful", "--recipe", "careful.yaml", "--rows", f"{name}.jsonl", "--out", name, "--assume", "margin_points=10", "--json")  # fmt: skip
        found = outcome(done)
        assert (done.returncode, found["exit_code"]) == (code, code), done.stderr
        assert found["digest"] == careful["published"]["digest"]
        assert found["then"]["points"] == pytest.approx(-careful["verdict"]["target"]["drop_points"])
    assert found["loss_points"] > 20


@pytest.mark.timeout(900)
def test_a_run_stopped_in_every_step_goes_on(world: Path, careful: dict[str, Any]) -> None:
    """kill -9 and Ctrl-C in turn, each time in a step that was not reached before; finished work is never repeated."""
    settings = ["--set", "train.seed=7", "--set", "gate.attempts=8"]
    arguments = ["run", "careful.yaml", *settings, "--runs", str(world / "stopped"), "--json"]
    stopped: list[str] = []
    while fresh := _stop_in_a_new_step(world, [*arguments, *(["--resume"] if stopped else [])], stopped):
        stopped.append(fresh)
    assert set(stopped) == {*STEPS, "publish"}
    found = outcome(retain(world, *arguments, "--resume"))
    assert found["exit_code"] == 0
    assert set(found["cached"]) >= {"validate", "rehearse", "template", "mix", "train", "merge"}
    assert len(list((world / "stopped").glob("careful-*"))) == 1


def _stop_in_a_new_step(world: Path, arguments: list[str], before: list[str]) -> str:
    """The step that was interrupted; empty where the run came to its end first."""
    log = world / f"stopped-{len(before)}.log"

    def new() -> list[str]:
        return [step for step in (*STEPS, "publish") if step not in before and f"── {step}\n" in log.read_text()]

    with log.open("w") as stream:
        victim = subprocess.Popen(
            command(*arguments), env=environment(world), cwd=world, stdout=subprocess.DEVNULL, stderr=stream
        )
        wait_for(lambda: new() or victim.poll() is not None, seconds=200)
        how = signal.SIGINT if len(before) % 2 else signal.SIGKILL
        victim.send_signal(how)
        code = victim.wait(timeout=90)
    assert "Traceback" not in log.read_text()
    if code == 0:
        return ""
    assert code == (130 if how is signal.SIGINT else -signal.SIGKILL), log.read_text()
    assert ("To go on: retain run careful.yaml" in log.read_text()) == (how is signal.SIGINT)
    return new()[0]


def test_a_faulty_recipe_is_refused_in_a_second_and_without_a_traceback(world: Path) -> None:
    start = time.monotonic()
    done = retain(world, "run", "careful.yaml", "--set", "gate.macro_margn_points=3")
    assert done.returncode == 2
    assert "gate.macro_margn_points: no such setting; did you mean 'macro_margin_points'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 20


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("score.tasks.0.name=no_such_benchmark", 2, "no_such_benchmark"),
        ("model.base_model=/nowhere", 2, "/nowhere"),
        ("data.datasets.0.path=/nowhere.jsonl", 2, "/nowhere.jsonl"),
        ("gate.macro_margin_points=0.5", 2, "could not conclude"),
    ],
    ids=["benchmark", "base", "file", "gate"],
)
def test_what_cannot_work_is_refused_in_the_first_task(world: Path, override: str, code: int, words: str) -> None:
    done = retain(world, "run", "careful.yaml", "--set", override, "--runs", str(world / "refused"))
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout
    assert "── validate" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def wait_for(condition: Any, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.2)
