"""Profiles: what they put on every pod, checked in the compiled spec, and what they refuse."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from retain.errors import ConfigError, UsageError
from retain.resolve.recipe import Recipe
from retain.resolve.recipe import load as recipe
from retain.train import trainjob
from retain_pipelines import compiling, pods, profile

DIGESTS = {"cpu": "sha256:" + "a" * 64, "gpu": "sha256:" + "b" * 64}
IMAGES = pods.Images("registry.example.com/ml", DIGESTS)
SMALL: dict[str, Any] = {"mlflow": "http://mlflow:5000"}


def parsed(values: dict[str, Any], tmp_path: Path) -> profile.Profile:
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(values))
    return profile.load(str(tmp_path / "p.yaml"))


@pytest.fixture(scope="module")
def quickstart() -> Recipe:
    return recipe("quickstart")


class Pods:
    """A compiled pipeline by executor: its container, its pod's settings and its task."""

    def __init__(self, spec: dict[str, Any], platform: dict[str, Any]) -> None:
        self.spec, self.platform = spec, platform

    def container(self, step: str) -> dict[str, Any]:
        return self.spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]

    def pod(self, step: str) -> dict[str, Any]:
        return self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{step}"]

    def environment(self, step: str) -> dict[str, str]:
        return {entry["name"]: entry["value"] for entry in self.container(step)["env"]}

    def tasks(self) -> dict[str, Any]:
        dags = [self.spec["root"], *(c for c in self.spec["components"].values() if "dag" in c)]
        return {name: task for dag in dags for name, task in dag["dag"]["tasks"].items()}

    def names(self) -> list[str]:
        return [name.removeprefix("exec-") for name in self.spec["deploymentSpec"]["executors"]]


def built(values: dict[str, Any], tmp_path: Path, wanted: Recipe, name: str = "finetune-without-forgetting") -> Pods:
    return Pods(*compiling.with_profile(name, parsed(values, tmp_path), IMAGES, wanted))


@pytest.fixture(scope="module")
def spot(quickstart: Recipe) -> Pods:
    return Pods(*compiling.with_profile("finetune-without-forgetting", profile.load("spot"), IMAGES, quickstart))


def test_three_profiles_are_shipped_and_load() -> None:
    assert set(profile.profiles()) == {"default", "spot", "airgapped"}
    for name in profile.profiles():
        assert set(profile.load(name).steps) == set(profile.STEPS)
        said = yaml.safe_load(profile.profiles()[name].read_text())["steps"]
        assert set(profile.WITH_TORCH) <= set(said), "what holds weights is sized on purpose, never by the defaults"


@pytest.mark.parametrize("name", ["default", "spot", "airgapped"])
@pytest.mark.parametrize("pipeline", list(compiling.PIPELINES))
def test_every_pipeline_compiles_with_every_profile_against_the_protos(
    name: str, pipeline: str, quickstart: Recipe
) -> None:
    spec, platform = compiling.with_profile(pipeline, profile.load(name), IMAGES, quickstart)
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == set(spec["deploymentSpec"]["executors"])
    for label, config in executors.items():
        json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
        container = spec["deploymentSpec"]["executors"][label]["container"]
        assert "@sha256:" in container["image"], label
        step = label.removeprefix("exec-").rstrip("-0123456789")
        assert ("retain-gpu" in container["image"]) == (step in (*profile.WITH_TORCH, *pods.FETCHING)), label
        assert container["resources"]["resourceMemoryLimit"], label
        assert container["resources"]["resourceCpuLimit"], label
        assert config["activeDeadlineSeconds"], label
        assert config["securityContext"] == {"runAsNonRoot": True}
        if "accelerator" in container["resources"]:
            assert config["tolerations"], label
            assert "/dev/shm" in [mount["mountPath"] for mount in config["emptyDirMounts"]], label
        assert not [e for e in container["env"] if profile.SECRET_NAME.search(e["name"])], label


def test_the_gpu_steps_get_a_gpu_and_its_surroundings(spot: Pods) -> None:
    assert spot.container("train")["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert spot.container("train")["resources"]["accelerator"]["resourceCount"] == "1"
    pod = spot.pod("train")
    assert pod["nodeSelector"] == {"labels": {"retain/pool": "spot"}}
    assert [t["key"] for t in pod["tolerations"]] == ["nvidia.com/gpu", "retain/spot"]
    assert {"medium": "Memory", "mountPath": "/dev/shm", "sizeLimit": "8Gi", "volumeName": "shm"} in pod[
        "emptyDirMounts"
    ]
    for step in ("resolve", "validate", "gate", "publish", "stop"):
        assert "accelerator" not in spot.container(step)["resources"], step
        # the quickstart's base is a GGUF file, which its first task converts with torch
        assert f"retain-{'gpu' if step == 'resolve' else 'cpu'}:" in spot.container(step)["image"]


def test_merge_has_an_entry_of_its_own_the_gpu_image_on_a_cpu_node(spot: Pods) -> None:
    assert (
        spot.container("merge")["image"]
        == f"registry.example.com/ml/retain-gpu:{pods.images.version()}@{DIGESTS['gpu']}"
    )
    assert "accelerator" not in spot.container("merge")["resources"]
    assert "nodeSelector" not in spot.pod("merge")


def test_a_base_that_is_unpacked_has_the_room_of_a_merge(spot: Pods, tmp_path: Path) -> None:
    assert (
        spot.container("resolve")["resources"]["resourceMemoryLimit"]
        == spot.container("merge")["resources"]["resourceMemoryLimit"]
    )
    own = profile.PodSettings(cpu="500m", memory="96Gi")
    assert pods._as_large(own, profile.PodSettings(cpu="2", memory="32Gi")) == own.model_copy(update={"cpu": "2"})
    plain = recipe("quickstart", ["model.base_model=s3://models/base"])
    assert built(SMALL, tmp_path, plain).container("resolve")["resources"]["resourceMemoryLimit"] == "4Gi"


def test_rehearse_has_a_gpu_only_where_the_recipe_wants_it(spot: Pods) -> None:
    assert "accelerator" not in spot.container("rehearse")["resources"]
    assert "tolerations" not in spot.pod("rehearse")
    wanted = recipe("quickstart", ["data.replay.source=generated"])
    spec = Pods(*compiling.with_profile("finetune-without-forgetting", profile.load("spot"), IMAGES, wanted))
    assert "accelerator" in spec.container("rehearse")["resources"]


def test_every_pod_knows_the_run_the_tracker_and_its_home(spot: Pods) -> None:
    for step in spot.names():
        pod, environment = spot.pod(step), spot.environment(step)
        assert pod["fieldPathAsEnv"] == [{"name": "RETAIN_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}]
        assert (environment["MLFLOW_TRACKING_URI"], environment["RETAIN_HOME"]) == (
            "http://retain-mlflow:5000",
            "/retain",
        )
        assert environment["MLFLOW_EXPERIMENT_NAME"] == "retain"
        assert pod["pvcMount"][0]["mountPath"] == "/retain"
        assert pod["secretAsEnv"][0]["secretName"] == "retain-s3"


def test_retries_are_for_lost_pods_never_for_answers(spot: Pods) -> None:
    tasks = spot.tasks()
    assert tasks["train"]["retryPolicy"] == {"maxRetryCount": 10, "backoffDuration": "120s", "backoffFactor": 2.0, "backoffMaxDuration": "3600s"}  # fmt: skip
    for step in ("resolve", "validate", "template", "mix", "gate"):
        assert "retryPolicy" not in tasks[step], step
    for name, component in spot.spec["components"].items():
        for key, task in component.get("dag", {}).get("tasks", {}).items():
            assert key.rstrip("-0123456789") in profile.RETRIED or "retryPolicy" not in task, name


# Setting in a profile → how it looks in the compiled spec of `score`.
KNOBS: dict[str, tuple[dict[str, Any], Any]] = {
    "cpu": ({"cpu": "7"}, lambda p: p.container("score")["resources"]["resourceCpuLimit"] == "7"),
    "memory": ({"memory": "77Gi"}, lambda p: p.container("score")["resources"]["resourceMemoryLimit"] == "77Gi"),
    "gpu_count": ({"gpu_count": 4}, lambda p: p.container("score")["resources"]["accelerator"]["resourceCount"] == "4"),
    "gpu_type": ({"gpu_type": "nvidia.com/mig-3g.40gb"}, lambda p: p.container("score")["resources"]["accelerator"]["resourceType"] == "nvidia.com/mig-3g.40gb"),
    "node_selector": ({"node_selector": {"a": "b"}}, lambda p: p.pod("score")["nodeSelector"]["labels"] == {"a": "b"}),
    "tolerations": ({"tolerations": [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}]}, lambda p: p.pod("score")["tolerations"] == [{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}]),
    "shm": ({"shm": "3Gi"}, lambda p: p.pod("score")["emptyDirMounts"][0]["sizeLimit"] == "3Gi"),
    "timeout_seconds": ({"timeout_seconds": 99}, lambda p: p.pod("score")["activeDeadlineSeconds"] == "99"),
    "retries": ({"retries": 5}, lambda p: p.tasks()["score"]["retryPolicy"]["maxRetryCount"] == 5),
    "retry_wait_seconds": ({"retries": 5, "retry_wait_seconds": 7}, lambda p: p.tasks()["score"]["retryPolicy"]["backoffDuration"] == "7s"),
    "retry_factor": ({"retries": 5, "retry_factor": 3.5}, lambda p: p.tasks()["score"]["retryPolicy"]["backoffFactor"] == 3.5),
    "retry_longest_wait_seconds": ({"retries": 5, "retry_longest_wait_seconds": 70}, lambda p: p.tasks()["score"]["retryPolicy"]["backoffMaxDuration"] == "70s"),
    "labels": ({"labels": {"kueue.x-k8s.io/queue-name": "gpus"}}, lambda p: p.pod("score")["podMetadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "gpus"}),
}  # fmt: skip


@pytest.mark.parametrize("knob", KNOBS)
def test_every_setting_of_a_pod_reaches_the_spec(knob: str, tmp_path: Path, quickstart: Recipe) -> None:
    change, holds = KNOBS[knob]
    usual = {"gpu_count": 1, "memory": "64Gi", "tolerations": [{"key": "nvidia.com/gpu"}]}
    assert holds(built({**SMALL, "steps": {"score": {**usual, **change}}}, tmp_path, quickstart, "regression-gate"))
    before = built({**SMALL, "steps": {"score": usual}}, tmp_path, quickstart, "regression-gate")
    with contextlib.suppress(KeyError):
        assert not holds(before)


def test_every_setting_has_its_test() -> None:
    assert set(KNOBS) == set(profile.PodSettings.model_fields)


def test_settings_of_the_whole_profile_reach_every_pod(tmp_path: Path, quickstart: Recipe) -> None:
    values = {
        **SMALL, "pull_secrets": ["pull"], "environment": {"HTTPS_PROXY": "http://proxy:3128"}, "run_as_non_root": False,
        "secrets": [{"name": "s", "keys": {"HF_TOKEN": "token"}, "optional": True}], "home": {"mount_path": "/data", "scratch": "9Gi"},
    }  # fmt: skip
    found = built(values, tmp_path, quickstart, "regression-gate")
    for step in found.names():
        pod = found.pod(step)
        assert pod["imagePullSecret"][0]["secretName"] == "pull"
        assert found.environment(step)["HTTPS_PROXY"] == "http://proxy:3128"
        assert "securityContext" not in pod
        assert pod["secretAsEnv"][0]["keyToEnv"] == [{"secretKey": "token", "envVar": "HF_TOKEN"}]
        assert pod["secretAsEnv"][0]["optional"] is True
        assert pod["emptyDirMounts"] == [{"volumeName": "home", "mountPath": "/data", "sizeLimit": "9Gi"}]
        assert "pvcMount" not in pod
    claim = {"claim": "c", "sub_path": "team", "mount_path": "/data"}
    mounted = built({**SMALL, "home": claim}, tmp_path, quickstart, "regression-gate").pod("gate")["pvcMount"][0]
    assert (mounted["constant"], mounted["mountPath"], mounted["subPath"]) == ("c", "/data", "team")


def test_scores_are_shared_through_a_store(tmp_path: Path, quickstart: Recipe) -> None:
    found = built({**SMALL, "cache_uri": "s3://cache/scores"}, tmp_path, quickstart, "regression-gate")
    assert found.environment("score")["RETAIN_CACHE_URI"] == "s3://cache/scores"
    assert "RETAIN_CACHE_URI" not in found.environment("gate")


@pytest.mark.parametrize("pipeline", list(compiling.PIPELINES))
@pytest.mark.parametrize("name", ["default", "spot", "airgapped"])
def test_weights_lie_in_one_place_in_every_shipped_profile(name: str, pipeline: str, quickstart: Recipe) -> None:
    """Whatever makes a model says where its weights go; an artifact then carries an address only (retain.weights)."""
    found = Pods(*compiling.with_profile(pipeline, profile.load(name), IMAGES, quickstart))
    wanted = "s3://retain/weights" if name == "airgapped" else "/retain/weights"
    makers = {c["executorLabel"].removeprefix("exec-") for c in found.spec["components"].values() if _makes_a_model(c)}
    told = {step: found.environment(step).get("RETAIN_MODELS_URI") for step in found.names()}
    assert {step: place for step, place in told.items() if place} == dict.fromkeys(makers, wanted)
    assert makers or pipeline == "regression-gate"
    if wanted.startswith("/"):
        assert all(found.pod(step)["pvcMount"][0]["mountPath"] == "/retain" for step in found.names())


def _makes_a_model(component: dict[str, Any]) -> bool:
    made = component.get("outputDefinitions", {}).get("artifacts", {}).values()
    return "executorLabel" in component and "system.Model" in [one["artifactType"]["schemaTitle"] for one in made]


def test_the_key_of_the_judge_goes_to_the_judge_alone(tmp_path: Path, quickstart: Recipe) -> None:
    values = {**SMALL, "judge": {"secret": "judge", "key": "token"}}
    found = built(values, tmp_path, quickstart)
    for step in found.names():
        given = found.pod(step).get("secretAsEnv", [])
        entry = [{"secretKey": "token", "envVar": "RETAIN_JUDGE_API_KEY"}]
        assert ([one["keyToEnv"] for one in given] == [entry]) is step.startswith("judge"), step
    other = recipe("quickstart", ["score.judge.api_key_env=TEAM_JUDGE_KEY"])
    (named,) = built(values, tmp_path, other, "regression-gate").pod("judge")["secretAsEnv"]
    assert (named["secretName"], named["keyToEnv"][0]["envVar"]) == ("judge", "TEAM_JUDGE_KEY")
    assert "secretAsEnv" not in built(SMALL, tmp_path, quickstart, "regression-gate").pod("judge")


def test_a_list_of_choices_in_the_form_is_opt_in_and_parses(tmp_path: Path, quickstart: Recipe) -> None:
    finetune = "finetune-without-forgetting"
    found = built({**SMALL, "form_choices": True}, tmp_path, quickstart, finetune).spec
    parameters = found["root"]["inputDefinitions"]["parameters"]
    assert "lora" in parameters["train_method"]["literals"]
    assert parameters["train_method"]["defaultValue"] in parameters["train_method"]["literals"]
    assert [name for name, entry in parameters.items() if "literals" in entry] == ["compress_method", "train_method"]
    parsed_spec = json_format.ParseDict(found, pipeline_spec_pb2.PipelineSpec())
    assert len(parsed_spec.root.input_definitions.parameters["train_method"].literals) > 5
    assert "literals" not in str(built(SMALL, tmp_path, quickstart, finetune).spec)


def test_the_webhook_is_known_to_the_last_task_alone(tmp_path: Path, quickstart: Recipe) -> None:
    told = {"webhook": {"secret": "chat", "key": "address"}, "kfp_ui": "https://kf/pipeline", "mlflow_ui": "https://ml"}
    found = built({**SMALL, **told}, tmp_path, quickstart, "regression-gate")
    (entry,) = found.pod("close")["secretAsEnv"]
    assert (entry["secretName"], entry["keyToEnv"]) == ("chat", [{"secretKey": "address", "envVar": "RETAIN_WEBHOOK_URL"}])  # fmt: skip
    assert found.environment("close")["RETAIN_KFP_UI"] == "https://kf/pipeline"
    assert found.environment("close")["RETAIN_MLFLOW_UI"] == "https://ml"
    for step in set(found.names()) - {"close"}:
        assert "secretAsEnv" not in found.pod(step), step
        assert "RETAIN_KFP_UI" not in found.environment(step), step
    silent = built(SMALL, tmp_path, quickstart, "regression-gate")
    assert "secretAsEnv" not in silent.pod("close")
    assert "RETAIN_MLFLOW_UI" not in silent.environment("close")


GPU = {"gpu_count": 1, "tolerations": [{"key": "nvidia.com/gpu"}]}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gpu without toleration": ({"steps": {"train": {"gpu_count": 1}}}, "a GPU without a toleration"),
    "gpu on the cpu image": ({"steps": {"gate": GPU}}, "a GPU would stand idle"),
    "unknown key": ({"registri": "x"}, "did you mean 'registry'"),
    "unknown step": ({"steps": {"trian": {}}}, "did you mean 'train'"),
    "unknown setting of a step": ({"steps": {"train": {"gpu_cuont": 1}}}, "did you mean 'gpu_count'"),
    "unknown default": ({"defaults": {"memry": "1Gi"}}, "did you mean 'memory'"),
    "retry of a verdict": ({"steps": {"gate": {"retries": 1}}}, "an answer is not asked for twice"),
    "retry by default": ({"defaults": {"retries": 1}}, "an answer is not asked for twice"),
    "RWO, any node": ({"home": {"claim": "c", "access_mode": "ReadWriteOnce"}}, "one node only can have it"),
    "RWO, two nodes": (
        {"home": {"claim": "c", "access_mode": "ReadWriteOnce"}, "defaults": {"node_selector": {profile.HOST_LABEL: "n1"}}, "steps": {"train": {"node_selector": {profile.HOST_LABEL: "n2"}}}},
        "run on n1, n2",
    ),
    "weights on no volume": ({"models_uri": "/retain/weights"}, "no folder that all steps share"),
    "weights beside the volume": ({"home": {"claim": "c"}, "models_uri": "/other"}, "put it under home.mount_path"),
    "weights among what is published": ({"home": {"claim": "c"}, "models_uri": "/retain/models"}, "published models lie there"),
    "weights nowhere": ({"models_uri": "models"}, "models_uri"),
    "secret in the environment": ({"environment": {"AWS_SECRET_ACCESS_KEY": "x"}}, "looks like a secret"),
    "password in an address": ({"environment": {"HTTPS_PROXY": "http://me:pw@proxy"}}, "looks like a secret"),
    "a variable of ours": ({"environment": {"RETAIN_RUN_ID": "x"}}, "is set by retain itself"),
    "no name of a variable": ({"environment": {"a-b": "x"}}, "no name of a variable"),
    "shm above memory": ({"steps": {"train": {"memory": "4Gi", "shm": "8Gi"}}}, "more than the memory"),
    "no quantity": ({"steps": {"train": {"memory": "4 GB"}}}, "no Kubernetes quantity"),
    "a short digest": ({"digests": {"cpu": "sha256:abc"}}, "digests"),
    "a step that is no group": ({"steps": {"train": 3}}, "a group of settings is wanted"),
    "mlflow with a password": ({"mlflow": "http://me:pw@mlflow"}, "mlflow"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_run_is_refused_with_its_reason(case: str, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as caught:
        parsed({**SMALL, **change}, tmp_path)
    assert "profile" in str(caught.value)
    assert "Value error" not in str(caught.value)


def test_rwo_is_fine_where_one_node_runs_everything(tmp_path: Path) -> None:
    one = {
        "home": {"claim": "c", "access_mode": "ReadWriteOnce"},
        "defaults": {"node_selector": {profile.HOST_LABEL: "n1"}},
    }
    assert parsed({**SMALL, **one}, tmp_path).steps["train"].node_selector == {profile.HOST_LABEL: "n1"}


def test_an_unknown_profile_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'airgapped'"):
        profile.load("air-gapped")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ConfigError, match="this profile is empty"):
        profile.load(str(tmp_path / "empty.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        profile.load(str(tmp_path / "bad.yaml"))


def test_images_need_a_registry_and_both_digests() -> None:
    settings = profile.load("default")
    for flags in (None, [f"cpu={DIGESTS['cpu']}"]):
        with pytest.raises(UsageError, match="without a registry and a digest"):
            pods.images_of(settings, "registry.example.com", flags).check()
    with pytest.raises(UsageError, match="without a registry"):
        pods.images_of(settings, "", [f"{kind}={sha}" for kind, sha in DIGESTS.items()]).check()
    for flag in ("cpu=latest", "tpu=sha256:" + "a" * 64, "sha256:" + "a" * 64, "cpu=sha256:" + "z" * 64):
        with pytest.raises(ConfigError, match="--image-digest takes KIND=DIGEST"):
            pods.images_of(settings, "r", [flag])
    taken = pods.images_of(profile.load("airgapped"), "", [f"{kind}={sha}" for kind, sha in DIGESTS.items()])
    taken.check()
    assert taken.reference("cpu") == f"registry.internal/retain/retain-cpu:{pods.images.version()}@{DIGESTS['cpu']}"


SHARED: dict[str, Any] = {**SMALL, "home": {"claim": "retain-home"}, "train_nodes": 4, "train_runtime": "team-torch"}
GPU: dict[str, Any] = {"gpu_count": 8, "memory": "64Gi", "node_selector": {"gpu": "h200"}, "tolerations": [{"key": "nvidia.com/gpu"}]}  # fmt: skip


def test_several_nodes_become_a_train_job_and_the_step_itself_needs_no_gpu(quickstart: Recipe, tmp_path: Path) -> None:
    made = built({**SHARED, "steps": {"train": GPU}}, tmp_path, quickstart)
    asked = json.loads(made.environment("train")["RETAIN_TRAIN_JOB"])
    assert asked == {"nodes": 4, "processes": 8, "runtime": "team-torch", "image": IMAGES.reference("gpu")}
    assert trainjob.Nodes.model_validate(asked).nodes == 4
    assert "accelerator" not in made.container("train")["resources"]
    assert "nodeSelector" not in made.pod("train")
    assert "RETAIN_TRAIN_JOB" not in made.environment("merge")
    one = built({**SHARED, "train_nodes": 1, "steps": {"train": GPU}}, tmp_path, quickstart)
    assert "RETAIN_TRAIN_JOB" not in one.environment("train")


@pytest.mark.parametrize("home", [{}, {"claim": "retain-home", "access_mode": "ReadWriteOnce"}])
def test_several_nodes_need_a_volume_that_all_of_them_write(home: dict[str, str], tmp_path: Path) -> None:
    host = {"defaults": {"node_selector": {"kubernetes.io/hostname": "a"}}}
    with pytest.raises(ConfigError, match="give home a ReadWriteMany claim"):
        parsed({**SHARED, **host, "home": home}, tmp_path)
