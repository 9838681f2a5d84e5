"""The one house of kfp-kubernetes: a profile's settings put on the tasks of a pipeline while it is compiled."""

import copy
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retain import images
from retain.errors import ConfigError, UsageError
from retain.resolve.recipe import Recipe
from retain_pipelines.profile import PodSettings, Profile, quantity

RUN_ID_FIELD = "metadata.labels['pipeline/runid']"  # KFP puts the run's id on every pod
FETCHING = ("resolve", "pair", "renew")  # the first tasks, which fetch the base
MAKING = ("train", "merge", "combine", "compress", "repair")  # whose outputs hold weights


@dataclass(frozen=True)
class Images:
    """Where the two images lie and which content they have: ``registry/retain-gpu:0.1.0@sha256:…``."""

    registry: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)

    def reference(self, kind: images.Kind) -> str:
        place = f"{self.registry}/" if self.registry else ""
        mark = f"@{self.digests[kind]}" if kind in self.digests else ""
        return f"{place}{images.reference(kind)}{mark}"

    def check(self) -> None:
        """Refuse a name that may mean another content tomorrow: KFP's cache would take its old results for the new ones."""
        missing = [kind for kind in images.KINDS if kind not in self.digests]
        if missing or not self.registry:
            raise UsageError(
                "an image without a registry and a digest is not sent to a cluster",
                got=", ".join(self.reference(kind) for kind in missing or images.KINDS),
                expected="registry/retain-cpu:VERSION@sha256:<64 hex>, and the same for gpu",
                fix="--registry HOST/PATH --image-digest cpu=sha256:… --image-digest gpu=sha256:…, or registry: and digests: in the profile",
            )  # fmt: skip


def images_of(profile: Profile, registry: str, flags: list[str] | None) -> Images:
    """The profile's images, with ``--registry`` and ``--image-digest KIND=sha256:…`` laid over them."""
    digests: dict[str, str] = {str(kind): digest for kind, digest in profile.digests.items()}
    for flag in flags or []:
        kind, _, digest = flag.partition("=")
        if kind not in images.KINDS or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise ConfigError("--image-digest takes KIND=DIGEST", got=flag, expected="cpu=sha256:<64 hex> or gpu=sha256:<64 hex>")  # fmt: skip
        digests[kind] = digest
    return Images(registry.rstrip("/") or profile.registry, digests)


def converts(recipe: Recipe) -> bool:
    """Whether the first task has to turn a GGUF base into safetensors, which takes torch (an address that hides it: no)."""
    return recipe.model.base_model.lower().endswith(".gguf")


def with_torch_first(spec: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The compiled pipeline with its first task on the gpu image, where the recipe's base has to be converted there."""
    changed = copy.deepcopy(dict(spec))
    for label, executor in changed["deploymentSpec"]["executors"].items():
        if converts(recipe) and label.removeprefix("exec-") in FETCHING:
            executor["container"]["image"] = images.reference("gpu")
    return changed


def dressed(pipeline: Any, profile: Profile, taken: Images, recipe: Recipe, *, environment: Mapping[str, str]) -> Any:
    """The same pipeline with every task placed, sized and connected as the profile says.

    recipe: says which tasks need a GPU or torch. environment: of every pod, beside the profile's.
    """
    from kfp import dsl
    from kfp.dsl.pipeline_context import Pipeline

    @functools.wraps(pipeline.pipeline_func)
    def traced(*arguments: Any, **named: Any) -> Any:
        result = pipeline.pipeline_func(*arguments, **named)
        for task in Pipeline.get_default_pipeline().tasks.values():
            _dress(task, profile, taken, recipe, {**profile.environment, **environment})
        return result

    spec = pipeline.component_spec
    return dsl.pipeline(name=spec.name, description=spec.description)(traced)


def _dress(task: Any, profile: Profile, taken: Images, recipe: Recipe, environment: Mapping[str, str]) -> None:
    step = task.component_spec.name
    pod = profile.steps[step]
    if step == "rehearse" and recipe.data.replay.source != "generated":  # the base writes nothing: no GPU
        pod = pod.model_copy(update={"gpu_count": 0, "node_selector": {}, "tolerations": [], "shm": ""})
    if step == "train" and profile.train_nodes > 1:  # this pod only makes a TrainJob and follows it
        task.set_env_variable("RETAIN_TRAIN_JOB", _train_job(profile, taken, pod))
        pod = pod.model_copy(
            update={"gpu_count": 0, "node_selector": {}, "tolerations": [], "shm": "", "cpu": "1", "memory": "4Gi"}
        )
    unpacks = step in FETCHING and converts(recipe)
    if unpacks:  # the whole base is in memory once
        pod = _as_large(pod, profile.steps["merge"])
    kind: images.Kind = "gpu" if unpacks or task.container_spec.image == images.reference("gpu") else "cpu"
    task.set_container_image(taken.reference(kind))
    _size(task, pod)
    _place(task, pod, profile)
    _connect(task, profile, environment)
    if step == "score" and profile.cache_uri:
        task.set_env_variable("RETAIN_CACHE_URI", profile.cache_uri)
    if step in MAKING and profile.models_uri:
        task.set_env_variable("RETAIN_MODELS_URI", profile.models_uri)
    if step == "judge" and profile.judge.secret:
        _give(task, profile.judge.secret, profile.judge.key, recipe.score.judge.api_key_env)
    if step == "close":
        _tell_the_outside(task, profile)


def _as_large(pod: PodSettings, other: PodSettings) -> PodSettings:
    """The same pod with no fewer cores and no less memory than another."""
    return pod.model_copy(
        update={name: max(getattr(pod, name), getattr(other, name), key=quantity) for name in ("cpu", "memory")}
    )


def _train_job(profile: Profile, taken: Images, pod: PodSettings) -> str:
    """Where the nodes are, for the step itself (retain.train.trainjob.Nodes)."""
    where = {"nodes": profile.train_nodes, "processes": max(1, pod.gpu_count), "image": taken.reference("gpu"), "runtime": profile.train_runtime}  # fmt: skip
    return json.dumps(where)


def _size(task: Any, pod: PodSettings) -> None:
    from kfp import kubernetes

    task.set_cpu_request(pod.cpu).set_cpu_limit(pod.cpu).set_memory_request(pod.memory).set_memory_limit(pod.memory)
    if pod.gpu_count:
        task.set_accelerator_type(pod.gpu_type).set_accelerator_limit(pod.gpu_count)
    if pod.shm:
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=pod.shm)
    kubernetes.set_timeout(task, pod.timeout_seconds)
    if pod.retries:
        task.set_retry(
            num_retries=pod.retries, backoff_duration=f"{pod.retry_wait_seconds}s", backoff_factor=pod.retry_factor,
            backoff_max_duration=f"{pod.retry_longest_wait_seconds}s",
        )  # fmt: skip


def _place(task: Any, pod: PodSettings, profile: Profile) -> None:
    from kfp import kubernetes

    for label, value in pod.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in pod.tolerations:
        kubernetes.add_toleration(task, **{k: v for k, v in toleration.as_parameter().items() if v})
    for label, value in pod.labels.items():
        kubernetes.add_pod_label(task, label, value)
    if profile.pull_secrets:
        kubernetes.set_image_pull_secrets(task, profile.pull_secrets)
    if profile.run_as_non_root:
        kubernetes.set_security_context(task, run_as_non_root=True)


def _connect(task: Any, profile: Profile, environment: Mapping[str, str]) -> None:
    from kfp import kubernetes

    home = profile.home
    if home.claim:
        kubernetes.mount_pvc(task, home.claim, home.mount_path, sub_path=home.sub_path)
    else:
        kubernetes.empty_dir_mount(task, "home", home.mount_path, size_limit=home.scratch)
    for secret in profile.secrets:
        kubernetes.use_secret_as_env(task, secret.name, {key: name for name, key in secret.keys.items()}, optional=secret.optional)  # fmt: skip
    kubernetes.use_field_path_as_env(task, "RETAIN_RUN_ID", RUN_ID_FIELD)
    fixed = {"RETAIN_HOME": home.mount_path, "MLFLOW_TRACKING_URI": profile.mlflow}
    for name, value in sorted({**environment, **fixed}.items()):
        task.set_env_variable(name, value)


def _tell_the_outside(task: Any, profile: Profile) -> None:
    """The webhook's address goes to the one task that posts to it."""
    if profile.webhook.secret:
        _give(task, profile.webhook.secret, profile.webhook.key, "RETAIN_WEBHOOK_URL")
    for name, place in (("RETAIN_KFP_UI", profile.kfp_ui), ("RETAIN_MLFLOW_UI", profile.mlflow_ui)):
        if place:
            task.set_env_variable(name, place)


def _give(task: Any, secret: str, key: str, variable: str) -> None:
    """One entry of a secret to one task, by reference."""
    from kfp import kubernetes

    kubernetes.use_secret_as_env(task, secret, {key: variable})
