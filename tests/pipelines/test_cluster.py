"""Submit, follow, schedule and upload, against a server that validates every request with KFP's own models."""

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from retain import s3
from retain.errors import ConfigError, EnvironmentFault, IntegrityError, RetainError, UsageError
from retain_pipelines import auth, cluster, compiling, schedules
from retain_pipelines.cli.app import main
from retain_pipelines.endings import FINALS
from retain_pipelines.server import Server

from .kfp_server import Fault, World, serving

DIGESTS = ["--image-digest", "cpu=sha256:" + "a" * 64, "--image-digest", "gpu=sha256:" + "b" * 64]
IMAGES = ["--registry", "registry.example.com/ml", *DIGESTS]
PLACE = ["--namespace", "team", "--experiment", "nightly"]
BEFORE = [{"resolve": "RUNNING"}, {"resolve": "SUCCEEDED", "train": "RUNNING"}]
STEPS = ("resolve", "validate", "train", "gate")


def ending(name: str, state: str = "") -> list[dict[str, str]]:
    """What a run shows at three looks; the last has the final task."""
    done = dict.fromkeys(STEPS, "SUCCEEDED")
    last = state or ("SUCCEEDED" if name in cluster.GREEN else "FAILED")
    return [*BEFORE, {**done, **({name: last} if name else {})}]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TOKEN", "TOKEN_FILE", "COOKIE", "USERNAME", "PASSWORD", "HEADER", "CA", "HOST", "NAMESPACE"):
        monkeypatch.delenv(f"RETAIN_KFP_{name}", raising=False)
    monkeypatch.delenv("KF_PIPELINES_SA_TOKEN_PATH", raising=False)
    monkeypatch.setattr("retain_pipelines.server.LOOK_SECONDS", 0.01)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def host(world: World) -> Iterator[str]:
    with serving(world) as address:
        yield address


@pytest.fixture(scope="module")
def package() -> cluster.Package:
    return packed("regression-gate")


@pytest.fixture(scope="module")
def finetune() -> cluster.Package:
    return packed("finetune-without-forgetting")


def packed(name: str) -> cluster.Package:
    from retain_pipelines.cli.cluster import _package

    candidate = "s3://models/tuned" if name == "regression-gate" else ""
    return _package(name, "quickstart", None, None, candidate, "default", "registry.example.com/ml", DIGESTS[1::2])[0]


def retain(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    """One command line: (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "argv", ["retain", *words])
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def submitted(monkeypatch: pytest.MonkeyPatch, host: str, *more: str) -> tuple[int, str, str]:
    return retain(
        monkeypatch, "submit", "quickstart", "--host", host, *PLACE, *IMAGES, "--wait", "--poll", "0.05", *more
    )


def server(host: str, patience: float = 1.0, **credentials: Any) -> Server:
    return Server(host, "team", auth.Credentials(**credentials), patience=patience)


# -- a run, to its end


def ended(
    world: World, host: str, package: cluster.Package, show: Callable[[str], None] = lambda line: None
) -> cluster.Ended:
    """One run of ``package``, followed to its end."""
    run_id = cluster.submit(server(host), package, _settings(), experiment="nightly", name="quickstart")
    return cluster.follow(server(host), run_id, show=show, poll=0.02)


@pytest.mark.parametrize("name", [n for n in FINALS if n != "passed"])
def test_the_exit_code_is_read_from_the_final_task(
    name: str, world: World, host: str, finetune: cluster.Package
) -> None:
    world.script = ending(name)
    world.end = "SUCCEEDED" if name in cluster.GREEN else "FAILED"
    found = ended(world, host, finetune)
    assert (found.exit_code, found.ending, found.state) == (FINALS[name], name, world.end)


def test_a_closed_gate_that_ends_green_is_closed_all_the_same(
    world: World, host: str, finetune: cluster.Package
) -> None:
    world.script = ending("stop-regressed", "SUCCEEDED")
    assert ended(world, host, finetune).exit_code == 3


def test_a_closed_gate_on_the_command_line(world: World, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world.script, world.end = ending("stop-regressed"), "FAILED"
    code, out, err = submitted(monkeypatch, host, "--json")
    assert code == 3
    assert json.loads(out)["ending"] == "stop-regressed"
    assert "train                running" in err
    assert "/#/runs/details/" in err
    run = next(iter(world.runs.values()))
    assert run.display_name.startswith("quickstart-")
    assert world.experiments[run.experiment_id].display_name == "nightly"


@pytest.mark.parametrize("by_display_name", [False, True])
@pytest.mark.parametrize(("name", "code"), [("passed", 0), ("stop-regressed", 3), ("stop-integrity", 6)])
def test_the_regression_gate_and_servers_that_use_display_names(
    name: str, code: int, by_display_name: bool, world: World, host: str, package: cluster.Package
) -> None:
    done = dict.fromkeys(("pair", "score-base", "score-candidate", "gate"), "SUCCEEDED")
    world.by_display_name = by_display_name
    world.script = [{"pair": "RUNNING"}, {**done, name: "SUCCEEDED" if code == 0 else "FAILED"}]
    assert ended(world, host, package).exit_code == code
    assert next(iter(world.runs.values())).runtime_config.parameters["candidate_model"] == "s3://models/tuned"


def test_all_arguments_go_with_the_run_and_so_do_the_profile_and_the_digests(
    world: World, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = retain(
        monkeypatch, "submit", "quickstart", "--host", host, *PLACE, *IMAGES, "--set", "train.lora.r=4"
    )
    assert (code, out.strip()) == (0, next(iter(world.runs)))
    run = next(iter(world.runs.values()))
    assert run.runtime_config.parameters["train_settings"]["lora.r"] == 4
    assert set(run.runtime_config.parameters) == set(
        run.pipeline_spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    )
    containers = [e["container"] for e in run.pipeline_spec["pipeline_spec"]["deploymentSpec"]["executors"].values()]
    assert {c["image"].split("@")[1][:10] for c in containers} == {"sha256:aaa", "sha256:bbb"}
    assert run.pipeline_spec["platform_spec"]["platforms"]["kubernetes"]


def test_nothing_comes_from_the_cache_where_nobody_wants_it(
    world: World, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fresh in ([], ["--fresh"]):
        assert retain(monkeypatch, "submit", "quickstart", "--host", host, *PLACE, *IMAGES, *fresh)[0] == 0
    usual, without = [run.pipeline_spec["pipeline_spec"] for run in world.runs.values()]
    assert "enableCache" in str(usual)
    assert "enableCache" not in str(without)
    assert compiling.without_cache(usual) == without


@pytest.mark.parametrize(
    ("script", "end", "said"),
    [
        (ending(""), "SUCCEEDED", "final tasks: none"),
        ([*BEFORE, {"resolve": "SUCCEEDED", "train": "FAILED"}], "FAILED", "failed: train"),
        ([*BEFORE, {"resolve": "SUCCEEDED"}], "CANCELED", "CANCELED"),
        ([{"publish": "SUCCEEDED", "stop-regressed": "FAILED"}], "FAILED", "failed: stop-regressed"),
        (ending("publish", "FAILED"), "FAILED", "the gate said publish, but that task failed"),
        (ending("publish", "SKIPPED"), "SUCCEEDED", "final tasks: none"),
    ],
)
def test_a_run_without_a_clear_ending_is_8_never_0(
    script: list, end: str, said: str, world: World, host: str, finetune: cluster.Package
) -> None:
    world.script, world.end = script, end
    found = ended(world, host, finetune)
    assert found.exit_code == 8
    assert said in found.message


def test_a_run_that_disappears_is_8(world: World, host: str, finetune: cluster.Package) -> None:
    world.script, world.vanish_after = [*BEFORE, *BEFORE], 2
    with pytest.raises(EnvironmentFault, match="the run has disappeared from the server"):
        ended(world, host, finetune)


def test_following_outlives_a_server_that_is_away(world: World, host: str, finetune: cluster.Package) -> None:
    world.script, world.end = ending("stop-regressed"), "FAILED"
    world.faults = [Fault("GET", r"/runs/", action) for action in (502, "drop", 503)]
    shown: list[str] = []
    assert ended(world, host, finetune, shown.append).exit_code == 3
    assert [line for line in shown if "502" in line and "asked again" in line] == shown[:1], (
        "said once, not at each attempt"
    )
    assert not any(fault.times for fault in world.faults)


def test_a_run_can_be_followed_later(world: World, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = retain(monkeypatch, "submit", "quickstart", "--host", host, *PLACE, *IMAGES)
    world.script, world.end = ending("stop-inconclusive"), "FAILED"
    assert retain(monkeypatch, "follow", out.strip(), "--host", host, "--namespace", "team", "--poll", "0.05")[0] == 4
    code, _, err = retain(monkeypatch, "follow", "no-such-run", "--host", host, "--poll", "0.05")
    assert (code, "has disappeared" in err) == (8, True)


# -- what goes wrong while something is made


@pytest.mark.parametrize(("action", "code", "said"), [(401, 8, "asks for a login"), (403, 8, "--namespace ('team')"), (404, 8, "/pipeline"), (500, 8, "failed"), (400, 2, "refuses"), (409, 2, "refuses"), ("redirect", 8, "asks for a login"), ("html", 8, "no KFP server")])  # fmt: skip
def test_an_error_at_the_start_is_clear_and_leaves_nothing(
    action: Any, code: int, said: str, world: World, host: str, package: cluster.Package
) -> None:
    world.faults = [Fault("POST", r"/runs$", action, times=9)]
    with pytest.raises(RetainError) as caught:
        cluster.submit(server(host), package, _settings(), experiment="nightly")
    assert int(caught.value.exit_code) == code
    assert said in str(caught.value)
    assert not world.runs
    assert not world.experiments, "an experiment that was made for the run is taken away again"


def test_an_experiment_that_was_there_stays(world: World, host: str, package: cluster.Package) -> None:
    cluster.submit(server(host), package, _settings(), experiment="nightly")
    world.faults = [Fault("POST", r"/runs$", 500)]
    with pytest.raises(EnvironmentFault):
        cluster.submit(server(host), package, _settings(), experiment="nightly")
    assert (len(world.experiments), len(world.runs)) == (1, 1)


@pytest.mark.parametrize("path", [r"/runs$", r"/experiments$"])
@pytest.mark.parametrize("action", ["drop", 504])
def test_a_lost_answer_makes_nothing_twice(
    path: str, action: Any, world: World, host: str, package: cluster.Package
) -> None:
    world.faults = [Fault("POST", path, action, after=True)]
    run_id = cluster.submit(server(host), package, _settings(), experiment="nightly")
    assert list(world.runs) == [run_id]
    assert len(world.experiments) == 1
    assert sum(asked == ("POST", "/pipeline/apis/v2beta1/runs") for asked in world.asked) == 1


def test_a_lost_answer_of_a_server_that_stays_away_is_said_and_nothing_is_taken_away(
    world: World, host: str, package: cluster.Package
) -> None:
    world.faults = [Fault("POST", r"/runs$", "drop", after=True), Fault("GET", r"/runs$", 503, times=99)]
    with pytest.raises(EnvironmentFault, match="look in the UI"):
        cluster.submit(server(host, patience=0.1), package, _settings(), experiment="e")
    assert (len(world.experiments), len(world.runs)) == (1, 1)


def test_a_server_that_is_not_there(package: cluster.Package) -> None:
    with pytest.raises(EnvironmentFault, match="was not reached") as caught:
        cluster.submit(server("http://127.0.0.1:9", patience=0.3), package, _settings(), experiment="e")
    assert "refused" in str(caught.value)


def test_a_server_that_does_not_answer_in_time(
    world: World, host: str, package: cluster.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retain_pipelines.server.READ_SECONDS", 0.3)
    world.faults = [Fault("GET", r"/experiments$", "slow", times=9)]
    with pytest.raises(EnvironmentFault, match="ReadTimeoutError"):
        cluster.submit(server(host, patience=0.1), package, _settings(), experiment="e")


def test_a_host_that_is_something_else(world: World, host: str) -> None:
    world.faults = [Fault("GET", ".", "html", times=9)]
    with pytest.raises(EnvironmentFault, match="no KFP server"):
        server(host).experiment("e")
    for wrong in ("kubeflow.example.com", "ftp://x", ""):
        with pytest.raises(ConfigError, match="--host takes the address"):
            auth.check_host(wrong)


def _settings() -> Any:
    from retain_pipelines.profile import load

    return load("default")


# -- refused before the server is asked


def test_bad_input_never_reaches_the_server(
    world: World, host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = tmp_path / "r.yaml"
    (tmp_path / "rows.jsonl").write_text("{}\n")
    recipe.write_text(
        "model: {base_model: s3://models/base}\ndata: {datasets: [{path: rows.jsonl}]}\nscore: {tasks: [{name: core}]}\n"
    )
    hub = tmp_path / "hub.yaml"
    hub.write_text(
        f"model: {{base_model: 'hf://org/name', revision: {'a' * 40}}}\ndata: {{datasets: [{{path: 's3://data/rows.jsonl'}}]}}\n"
    )
    cases = [
        (["quickstart", *DIGESTS], "without a registry and a digest"),
        (["quickstart", *IMAGES, "--profile", "defalt"], "did you mean 'default'"),
        (["quickstart", *IMAGES, "--set", "train.lora.rr=4"], "did you mean 'r'"),
        (["quickstart", *IMAGES, "--pipeline", "regresion-gate"], "did you mean 'regression-gate'"),
        (["quickstart", *IMAGES, "--pipeline", "regression-gate"], "needs --candidate"),
        (["quickstart", *IMAGES, "--candidate", "s3://a/b"], "--candidate is for"),
        (["quickstart", *IMAGES, "--param", "train_epoch=2"], "for 'train_epochs', --set train.num_train_epochs=VALUE"),
        (["domains", *IMAGES, "--pipeline", "domain-adapters", "--param", "merge_weight=1"], "'merge_weights'"),
        ([str(recipe), *IMAGES], "a pod does not see this machine's files"),
        ([str(hub), *IMAGES], "no way to the hub"),
        (
            ["quickstart", *IMAGES, "--set", "score.include_path=[/home/me/tasks]"],
            "score_settings.include_path: a pod does not see",
        ),
    ]
    for words, said in cases:
        code, _, err = retain(monkeypatch, "submit", *words, "--host", host, *PLACE)
        assert (code, said in err) == (2, True), err
    assert world.asked == []


def test_arguments_that_a_pipeline_does_not_have() -> None:
    spec = {"root": {"inputDefinitions": {"parameters": {"base_model": {}, "train_epochs": {}}}}}
    with pytest.raises(ConfigError, match="did you mean 'train_epochs'"):
        cluster.check_arguments(spec, {"base_model": "x", "train_epoch": 1})
    with pytest.raises(ConfigError, match="without train_epochs"):
        cluster.check_arguments(spec, {"base_model": "x"})


# -- who we are


def test_a_token_from_the_environment_and_headers(world: World, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world.token = "tok-secret-1"
    with pytest.raises(EnvironmentFault, match="asks for a login"):
        Server(host, "team", auth.from_environment(host)).experiment("e")
    monkeypatch.setenv("RETAIN_KFP_TOKEN", "tok-secret-1")
    monkeypatch.setenv("RETAIN_KFP_HEADER", "kubeflow-userid: me@example.com")
    Server(host, "team", auth.from_environment(host)).experiment("e")
    assert world.headers[-1]["kubeflow-userid"] == "me@example.com"


def test_a_token_file_is_read_anew_for_each_request(
    world: World, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(file))
    with pytest.raises(EnvironmentFault, match="token file cannot be read"):
        Server(host, "team", auth.from_environment(host))
    file.write_text("first\n")
    world.token = "first"
    rotating = Server(host, "team", auth.from_environment(host))
    rotating.experiment("e")
    file.write_text("second\n")
    world.token = "second"
    assert rotating.experiment("e")[1] is False


def test_a_login_through_dex(world: World, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world.users, world.cookie = {"user@example.com": "pass-secret-2"}, "oauth2_proxy_kubeflow=session-secret-3"
    monkeypatch.setenv("RETAIN_KFP_USERNAME", "user@example.com")
    monkeypatch.setenv("RETAIN_KFP_PASSWORD", "wrong")
    with pytest.raises(EnvironmentFault, match="refused the login"):
        auth.from_environment(host)
    monkeypatch.setenv("RETAIN_KFP_PASSWORD", "pass-secret-2")
    credentials = auth.from_environment(host)
    assert Server(host, "team", credentials).experiment("e")[1] is True
    assert "secret" not in repr(credentials)
    monkeypatch.delenv("RETAIN_KFP_PASSWORD")
    with pytest.raises(ConfigError, match="needs both"):
        auth.from_environment(host)


def test_a_cookie_of_a_browser(world: World, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    world.cookie = "authservice_session=abc"
    monkeypatch.setenv("RETAIN_KFP_COOKIE", "authservice_session=abc")
    Server(host, "team", auth.from_environment(host)).experiment("e")


def test_no_secret_in_a_flag_or_in_what_is_printed(world: World, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        auth.check_host("https://me:pass-secret-4@kubeflow.example.com")
    assert "pass-secret-4" not in str(caught.value)
    monkeypatch.setenv("RETAIN_KFP_TOKEN", "tok-secret-5")
    monkeypatch.setenv("RETAIN_KFP_HEADER", "x-key: header-secret-6")
    world.token = "another"
    code, out, err = submitted(monkeypatch, host)
    assert code == 8
    world.token, world.script = "tok-secret-5", ending("publish")
    code, out2, err2 = submitted(monkeypatch, host)
    assert code == 0
    assert "secret" not in out + err + out2 + err2
    run = next(iter(world.runs.values()))
    assert "secret-5" not in json.dumps(run.pipeline_spec)


# -- schedules


def test_a_schedule_is_made_whole_listed_paused_and_deleted(
    world: World, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = ["--host", host, "--namespace", "team"]
    code, out, err = retain(
        monkeypatch,
        "schedule",
        "create",
        "quickstart",
        "--cron",
        "0 3 * * 1",
        "--name",
        "weekly",
        *at,
        *IMAGES,
        "--json",
    )
    assert code == 0, err
    made = next(iter(world.schedules.values()))
    assert json.loads(out)["id"] == made.recurring_run_id
    assert (made.max_concurrency, made.no_catchup, made.trigger.cron_schedule.cron) == ("1", True, "0 0 3 * * 1")
    assert set(made.runtime_config.parameters) == set(
        made.pipeline_spec["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    )
    assert retain(monkeypatch, "schedule", "pause", "weekly", *at)[0] == 0
    assert "weekly  0 0 3 * * 1  disabled" in retain(monkeypatch, "schedule", "list", *at)[1]
    assert retain(monkeypatch, "schedule", "resume", "weekly", *at)[0] == 0
    assert "enabled" in retain(monkeypatch, "schedule", "list", *at)[1]
    code, _, err = retain(
        monkeypatch, "schedule", "create", "quickstart", "--cron", "0 3 * * 1", "--name", "weekly", *at, *IMAGES
    )
    assert (code, "there is a schedule of this name" in err) == (2, True)
    code, _, err = retain(monkeypatch, "schedule", "delete", "wekly", *at)
    assert (code, "did you mean 'weekly'" in err) == (2, True)
    assert retain(monkeypatch, "schedule", "delete", "weekly", *at)[0] == 0
    assert not world.schedules
    assert "no schedule" in retain(monkeypatch, "schedule", "list", *at)[1]


@pytest.mark.parametrize("action", [401, 403, 500, "redirect"])
def test_a_schedule_that_fails_leaves_nothing(action: Any, world: World, host: str, package: cluster.Package) -> None:
    world.faults = [Fault("POST", r"/recurringruns$", action, times=9)]
    with pytest.raises(EnvironmentFault):
        schedules.create(server(host), package, _settings(), name="n", when="@daily", experiment="e")
    assert not world.schedules
    assert not world.experiments


def test_a_lost_answer_makes_one_schedule_and_a_lost_deletion_deletes(
    world: World, host: str, package: cluster.Package
) -> None:
    world.faults = [
        Fault("POST", r"/recurringruns$", "drop", after=True),
        Fault("DELETE", r"/recurringruns/", "drop", after=True),
    ]
    made = schedules.create(server(host), package, _settings(), name="n", when="@daily", experiment="e")
    assert list(world.schedules) == [made["id"]]
    schedules.delete(server(host), "n")
    assert not world.schedules


def test_a_schedule_takes_the_place_of_another_only_once_it_is_there(
    world: World, host: str, package: cluster.Package
) -> None:
    make = {"name": "n", "when": "@daily", "experiment": "e"}
    old = schedules.create(server(host), package, _settings(), **make)
    with pytest.raises(UsageError, match="--replace takes its place"):
        schedules.create(server(host), package, _settings(), **make)
    world.faults = [Fault("POST", r"/recurringruns$", 500, times=9)]
    with pytest.raises(EnvironmentFault):
        schedules.create(server(host), package, _settings(), **make, replace=True)
    assert list(world.schedules) == [old["id"]]
    world.faults = [Fault("POST", r"/recurringruns$", "drop", after=True)]
    new = schedules.create(server(host), package, _settings(), **{**make, "when": "@hourly"}, replace=True)
    assert list(world.schedules) == [new["id"]] != [old["id"]]
    assert next(iter(world.schedules.values())).trigger.cron_schedule.cron == "@hourly"
    assert schedules.create(server(host), package, _settings(), **{**make, "name": "m"}, replace=True)["name"] == "m"


def test_cron_in_the_servers_form() -> None:
    assert schedules.cron("0 3 * * *") == "0 0 3 * * *"
    assert schedules.cron("30 0 3 1,15 * MON-FRI") == "30 0 3 1,15 * MON-FRI"
    assert schedules.cron("*/5 * * * *") == "0 */5 * * * *"
    assert schedules.cron("@every 6h") == "@every 6h"
    for wrong in (
        "",
        "daily",
        "61 3 * * *",
        "0 3 * *",
        "0 25 * * *",
        "0 3 * * 9",
        "a b c d e",
        "0 3 * * * * *",
        "@never",
    ):
        with pytest.raises(ConfigError, match="--cron"):
            schedules.cron(wrong)


def test_an_unknown_parameter_in_a_schedule(world: World, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [
        "schedule",
        "create",
        "quickstart",
        "--cron",
        "0 3 * * *",
        "--host",
        host,
        *IMAGES,
        "--set",
        "train.epochz=2",
    ]
    code, _, err = retain(monkeypatch, *words)
    assert (code, "no such setting" in err) == (2, True)
    assert world.asked == []


# -- pipelines kept on the server


def test_upload_is_idempotent_by_content(world: World, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = ["--host", host, "--namespace", "team", *IMAGES, "--json"]
    first = json.loads(retain(monkeypatch, "upload", *at)[1])
    assert [row["new"] for row in first] == [True] * len(compiling.PIPELINES)
    assert {p.display_name for p in world.pipelines.values()} == set(compiling.PIPELINES)
    for found in (*world.pipelines.values(), *(v for versions in world.versions.values() for v in versions)):
        told = set(re.findall(r"^- `(\w+)`: \w", found.description, re.MULTILINE))
        assert told == set(compiling.load(found.display_name).pipeline_spec.root.input_definitions.parameters)
        assert len(quote(found.description)) < 6000, "it travels in the address of the request"
    again = json.loads(retain(monkeypatch, "upload", *at)[1])
    assert not any(row["new"] for row in again)
    for profile in ("spot", "airgapped", "spot", "default"):
        rows = json.loads(retain(monkeypatch, "upload", *at, "--profile", profile, "--pipeline", "regression-gate")[1])
    assert rows[0]["new"] is False
    assert sorted(len(versions) for versions in world.versions.values())[-2:] == [1, 3]


def test_an_upload_that_fails_leaves_nothing(world: World, host: str, package: cluster.Package) -> None:
    world.faults = [Fault("POST", r"/upload", 500)]
    with pytest.raises(EnvironmentFault):
        schedules.upload(server(host), package)
    assert not world.pipelines
    assert schedules.upload(server(host), package)["new"] is True
    world.faults = [Fault("POST", r"/upload", 401)]
    with pytest.raises(EnvironmentFault):
        schedules.upload(server(host), packed("finetune-without-forgetting"))
    assert len(world.pipelines) == 1


def test_upload_wants_digests_and_a_known_pipeline(world: World, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert retain(monkeypatch, "upload", "--host", host)[0] == 2
    assert retain(monkeypatch, "upload", "--host", host, *IMAGES, "--pipeline", "x")[0] == 2
    assert world.asked == []


def test_a_single_user_server_needs_no_namespace(world: World, host: str, package: cluster.Package) -> None:
    world.multi_user = False
    cluster.submit(Server(host, "", auth.Credentials()), package, _settings(), experiment="e")
    assert len(world.runs) == 1
    world.multi_user = True
    with pytest.raises(UsageError, match="namespace is empty in multi-user mode"):
        Server(host, "", auth.Credentials(), patience=0.1).experiment("other")


# -- verdict.json, from a real object store


@pytest.fixture
def bucket(s3: str) -> str:
    return "s3://models/submitted"


def test_the_verdict_comes_from_the_object_store_and_must_agree_with_the_run(bucket: str, tmp_path: Path) -> None:
    run = cluster.Ended("run-1", "url", "FAILED", "stop-regressed", 3, "stop-regressed")
    with pytest.raises(EnvironmentFault, match=r"left no verdict\.json"):
        cluster.fetch_verdict(bucket, "regression-gate", run, tmp_path)
    value = {
        "schema": "retain.verdict/1",
        "verdict": "regressed",
        "exit_code": 3,
        "reasons": [{"code": "macro_margin"}],
    }
    place = f"{bucket}/regression-gate/run-1/gate/6f2d/verdict/verdict.json"
    s3.write(place, json.dumps(value).encode())
    assert cluster.fetch_verdict(bucket, "regression-gate", run, tmp_path)["reasons"] == [{"code": "macro_margin"}]
    s3.write(place, json.dumps({**value, "exit_code": 0}).encode())
    with pytest.raises(IntegrityError, match="do not agree"):
        cluster.fetch_verdict(bucket, "regression-gate", run, tmp_path)
    with pytest.raises(ConfigError, match="--artifacts"):
        cluster.fetch_verdict("/tmp/x", "regression-gate", run, tmp_path)


def test_the_reasons_are_shown_at_the_end_of_a_run(
    bucket: str, world: World, host: str, finetune: cluster.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.script, world.end = ending("stop-regressed"), "FAILED"
    run_id = cluster.submit(server(host), finetune, _settings(), experiment="nightly")
    value = {
        "schema": "retain.verdict/1",
        "verdict": "regressed",
        "exit_code": 3,
        "reasons": [{"code": "benchmark_drop", "benchmark": "core_reading"}],
    }
    s3.write(f"{bucket}/finetune-without-forgetting/{run_id}/gate/verdict/verdict.json", json.dumps(value).encode())
    code, out, _ = retain(monkeypatch, "follow", run_id, "--host", host, "--poll", "0.05", "--artifacts", bucket)
    assert (code, "benchmark_drop core_reading" in out) == (3, True)
