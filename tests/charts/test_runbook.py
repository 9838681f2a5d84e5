"""The runbook names what is there: objects of the chart and its keys; the verbs of the command line: tests/pipelines/test_pages.py."""

import functools
import itertools
import os
import re
import shlex
import subprocess
import sys
import time

import helm_python
import pytest
import yaml
from charts_of import CHART, example
from kfp_server import World, serving

from retain.resolve.settings import merge
from retain_pipelines import profile as profiles

PAGE = (CHART / "README.md").read_text(encoding="utf-8")
TEXT = PAGE.split("<!-- values:")[0]
LINES = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
KUBECTL_KINDS = {"deployment": "Deployment", "service": "Service", "configmap": "ConfigMap", "job": "Job", "exec": "StatefulSet"}  # fmt: skip
BY_OTHERS = {"retain-champion-predictor"}  # made by KServe


@pytest.fixture(scope="module")
def objects(rendered):
    return {(m["kind"], m["metadata"]["name"]) for name in ("defaults", "production") for m in rendered[name]}


def test_objects_in_commands_exist(objects):
    found = [
        (kind, name)
        for line in LINES
        for kind, name in re.findall(r"\b(deployment|service|configmap|job)[/ ](retain[\w-]*)", line)
    ]
    found += [
        ("exec", name.removesuffix("-0"))
        for line in LINES
        for name in re.findall(r"exec (?:-i )?(retain-[\w-]+)", line)
    ]
    assert len(found) >= 9
    for kind, name in found:
        assert name in BY_OTHERS or (KUBECTL_KINDS[kind], name) in objects, (kind, name)


def test_secrets_have_the_names_and_keys_of_the_values(chart):
    made = dict(re.findall(r"create secret generic (\S+) (.*)", TEXT))
    values = chart.merge_values(example("production"))
    database, s3 = values["database"]["secret"], values["s3"]["secret"]
    assert set(re.findall(r"--from-literal=([\w-]+)=", made[database["name"]])) == {database["userKey"], database["passwordKey"]}  # fmt: skip
    assert set(re.findall(r"--from-literal=([\w-]+)=", made[s3["name"]])) == {s3["accessKey"], s3["secretKey"]}


def test_keys_in_the_text_exist(chart):
    tops = "|".join(chart.values)
    named = set(re.findall(rf"`((?:{tops})(?:\.\w+)+)(?:=[^`]*)?`", TEXT)) | set(re.findall(r"--set (\S+)=", TEXT))
    assert len(named) > 20
    for path in named:
        node = chart.values
        for name in path.split("."):
            if path.startswith("runs.steps.") and name not in node:
                break
            assert name in node, path
            node = node[name]


def test_helm_takes_what_the_helm_lines_say(chart):
    """Each line's chart, values file and settings, linted and rendered; my-values.yaml is one of the examples, as the page says."""
    lines = [shlex.split(line) for line in LINES if line.startswith("helm ") and "charts/retain" in line]
    assert {words[1] for words in lines} == {"lint", "upgrade"}
    for words in lines:
        values = {}
        for flag, value in itertools.pairwise(words):
            values = merge(values, values_in(value) if flag == "-f" else setting(value) if flag == "--set" else {})
        assert chart.render(values)
        assert not helm_python.lint(CHART, values, strict=True, namespace="retain")["errors"]


def setting(text):
    """``a.b=true`` as values."""
    key, _, value = text.partition("=")
    return functools.reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), yaml.safe_load(value))


def values_in(path):
    if path == "my-values.yaml":
        return example("production")
    return yaml.safe_load((CHART.parents[1] / path).read_text(encoding="utf-8"))


def the_map(manifests, name):
    (found,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == ("ConfigMap", name)]
    return found["data"]


@pytest.mark.parametrize("values", ["minimal", "production", "air-gapped", "openshift"])
def test_the_profile_is_one_that_upload_takes(rendered, values, tmp_path):
    path = tmp_path / "profile.yaml"
    path.write_text(the_map(rendered[values], "retain-profile")["profile.yaml"], encoding="utf-8")
    profile = profiles.load(str(path))
    assert profile.service_account == "retain-runs"
    assert (profile.home.claim, profile.models_uri) == ("retain-home", "/retain/weights")
    assert set(profile.digests) == {"cpu", "gpu"}
    assert "kueue.x-k8s.io/queue-name" in profile.steps["train"].labels or values != "production"


def test_old_weights_are_forgotten_by_the_very_command(tmp_path):
    (command,) = [line for line in LINES if line.startswith("find ")]
    for name, days in (("old", 40), ("new", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("x")
        os.utime(tmp_path / name, (time.time() - days * 86400,) * 2)
    subprocess.run(["sh", "-ec", command.replace("/retain/weights", str(tmp_path))], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_without_a_volume_the_weights_go_to_the_bucket_that_is_named(named, tmp_path):
    def profile(**runs):
        path = tmp_path / "profile.yaml"
        values = {"runs": {"home": {"enabled": False}, **runs}}
        path.write_text(named("ConfigMap", "retain-profile", values)["data"]["profile.yaml"], encoding="utf-8")
        return profiles.load(str(path))

    assert (profile().home.claim, profile().models_uri) == ("", "")
    assert profile(modelsUri="s3://runs/weights").models_uri == "s3://runs/weights"
    assert profile(judge={"secret": "judge"}).judge.secret == "judge"


def test_default_pods_are_those_of_the_shipped_profile(chart):
    shipped = yaml.safe_load(profiles.profiles()["default"].read_text(encoding="utf-8"))
    assert chart.values["runs"]["steps"] == shipped["steps"]
    assert chart.values["runs"]["defaults"] == shipped["defaults"]


def test_the_recipe_of_a_schedule_is_one_that_schedule_takes(rendered, tmp_path):
    from retain.resolve.recipe import load

    path = tmp_path / "weekly.yaml"
    path.write_text(the_map(rendered["production"], "retain-setup")["weekly.yaml"], encoding="utf-8")
    assert load(str(path)).publish.name == "support-model"


def test_the_schedule_job_replaces_what_it_made(named):
    job = named("Job", "retain-schedule-weekly", example("production"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    script = container["command"][-1]
    assert shlex.split(script)[:9] == ["exec", "retain", "schedule", "create", "/etc/retain/recipes/weekly.yaml", "--replace", "--name", "weekly", "--cron"]  # fmt: skip
    environment = {v["name"]: v.get("value") for v in container["env"]}
    assert environment["RETAIN_KFP_NAMESPACE"] == "retain"
    assert environment["RETAIN_KFP_HOST"].endswith(":8888")


def test_the_schedules_very_command_makes_a_recurring_retraining(rendered, named, tmp_path):
    """The job's own words, with its files where the pod has them, against a server that validates what it is sent."""
    recipe, profile = tmp_path / "weekly.yaml", tmp_path / "profile.yaml"
    recipe.write_text(the_map(rendered["production"], "retain-setup")["weekly.yaml"], encoding="utf-8")
    profile.write_text(the_map(rendered["production"], "retain-profile")["profile.yaml"], encoding="utf-8")
    job = named("Job", "retain-schedule-weekly", example("production"))
    words = shlex.split(job["spec"]["template"]["spec"]["containers"][0]["command"][-1])[1:]
    there = {"/etc/retain/recipes/weekly.yaml": str(recipe), "/etc/retain/profile/profile.yaml": str(profile)}
    world = World()
    with serving(world) as host:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "RETAIN_KFP_HOST": host,
            "RETAIN_KFP_NAMESPACE": "retain",
        }
        done = subprocess.run(
            [sys.executable, "-m", "retain_pipelines.cli", *(there.get(w, w) for w in words[1:])],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    (made,) = world.schedules.values()
    assert (made.display_name, made.no_catchup, made.max_concurrency) == ("weekly", True, "1")
    assert made.runtime_config.parameters["data_window_days"] == 28
    assert made.service_account == "retain-runs"


def test_the_champion_is_pulled_by_alias_and_checked(named):
    predictor = named("InferenceService", "retain-champion", example("production"))["spec"]["predictor"]
    (pull,) = predictor["initContainers"]
    assert pull["command"] == ["retain", "pull", "support-model", "--version", "champion", "--out", "/models/model", "--public-key", "/etc/retain/key/model.pub"]  # fmt: skip


def test_notes_warn_of_a_volume_for_one_node(chart):
    def notes(values):
        return next(text for path, text in chart.render(values).items() if path.endswith("NOTES.txt"))

    assert "ReadWriteOnce" not in notes({})
    assert "one node" in notes({"runs": {"home": {"accessMode": "ReadWriteOnce"}}})
    assert "not uploaded" in notes({})
    assert "no login" in notes({"networkPolicy": {"enabled": False}})


def test_the_chart_has_one_version(chart):
    from retain import images

    assert chart.metadata["appVersion"] == chart.version == images.version()
