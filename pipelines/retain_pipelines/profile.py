"""The profile: one YAML file that says how each step's pod is placed, sized and connected on a cluster.

A profile changes where and how long a step runs, never what it computes. ``defaults`` is laid under every step's own
entry, so that a step says only what it has otherwise.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, model_validator

from retain.config import StepConfig, nearest, parse
from retain.errors import ConfigError
from retain.resolve.settings import merge

STEPS = (
    "resolve",
    "pair",
    "renew",
    "divide",
    "take",
    "validate",
    "rehearse",
    "template",
    "mix",
    "train",
    "merge",
    "combine",
    "compress",
    "score",
    "judge",
    "route",
    "gate",
    "repair",
    "publish",
    "stop",
    "close",
)
# Steps on the gpu image (torch); all others run on the cpu image, where a GPU would stand idle.
WITH_TORCH = ("rehearse", "train", "merge", "combine", "compress", "score", "repair", "route")
# KFP starts a failed pod again whatever its exit code was. Only where a lost node is the likely fault is that right:
# the other steps' failures are answers (settings refused, rows refused, a closed gate), and those are not asked twice.
RETRIED = (*WITH_TORCH, "publish")
OURS = (
    "RETAIN_RUN_ID", "RETAIN_TRAIN_JOB", "RETAIN_RUN_DIR", "RETAIN_HOME", "RETAIN_TRACKING", "MLFLOW_TRACKING_URI",
    "RETAIN_WEBHOOK_URL", "RETAIN_KFP_UI", "RETAIN_MLFLOW_UI", "RETAIN_CACHE_URI", "RETAIN_MODELS_URI",
)  # fmt: skip
SECRET_NAME = re.compile(r"(?i)(secret|token|passw|credential|access_key|api_?key|private)")
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
UNITS = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}  # fmt: skip
HOST_LABEL = "kubernetes.io/hostname"


def quantity(text: str) -> float:
    """A Kubernetes quantity (``500m``, ``16Gi``) as a number of cores or bytes."""
    found = QUANTITY.fullmatch(text)
    if not found:
        raise ValueError(f"'{text}' is no Kubernetes quantity such as 2, 500m, 16Gi")
    return float(found[1]) * UNITS[found[2] or ""]


def _quantity(text: str) -> str:
    quantity(text)
    return text


Quantity = Annotated[str, AfterValidator(_quantity)]


class Toleration(StepConfig):
    """A taint that a pod puts up with."""

    key: str = Field(default="", description="key of the taint; empty with operator Exists: every taint")
    operator: Literal["Equal", "Exists"] = Field(
        default="Exists", description="Equal compares the value, Exists does not"
    )
    value: str = Field(default="", description="value of the taint, for operator Equal")
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        default="", description="effect of the taint; empty: every effect"
    )


class PodSettings(StepConfig):
    """One step's pod."""

    cpu: Quantity = Field(default="1", description="cores, requested and limit")
    memory: Quantity = Field(default="4Gi", description="bytes, requested and limit; /dev/shm counts against it")
    gpu_count: int = Field(default=0, ge=0, le=64, description="GPUs of one pod; 0: none")
    gpu_type: str = Field(default="nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$", description="resource name of the GPU, e.g. nvidia.com/mig-3g.40gb")  # fmt: skip
    node_selector: dict[str, str] = Field(default={}, description="node labels that the pod asks for")
    tolerations: list[Toleration] = Field(default=[], description="taints that the pod puts up with; a GPU needs one")
    shm: Literal[""] | Quantity = Field(default="", description="bytes of /dev/shm in memory (data loaders, NCCL); empty: the 64 MiB of the container engine")  # fmt: skip
    timeout_seconds: int = Field(default=21600, ge=60, description="seconds after which the pod is ended")
    retries: int = Field(default=0, ge=0, le=10, description="further attempts after a lost pod")
    retry_wait_seconds: int = Field(default=60, ge=1, description="seconds before the first further attempt")
    retry_factor: float = Field(default=2.0, ge=1, le=10, description="each wait is this many times the one before")
    retry_longest_wait_seconds: int = Field(default=3600, ge=1, description="seconds, the longest wait")
    labels: dict[str, str] = Field(default={}, description="labels of the pod, e.g. a Kueue queue")

    @model_validator(mode="after")
    def _fits(self) -> "PodSettings":
        if self.gpu_count and not self.tolerations:
            raise ValueError(
                "a GPU without a toleration: GPU nodes are tainted and the pod would wait for ever; "
                "add tolerations: [{key: nvidia.com/gpu}]"
            )
        if self.shm and quantity(self.shm) > quantity(self.memory):
            raise ValueError(f"shm {self.shm} is more than the memory {self.memory} it is taken from")
        return self


class Home(StepConfig):
    """RETAIN_HOME of every pod: fetched bases, kept scores, checkpoints."""

    claim: str = Field(default="", description="PersistentVolumeClaim that holds it; empty: each pod has a folder of its own (models and checkpoints then travel by s3://)")  # fmt: skip
    access_mode: Literal["ReadWriteMany", "ReadWriteOnce"] = Field(
        default="ReadWriteMany", description="of the claim; ReadWriteOnce ties all steps to one node"
    )
    mount_path: str = Field(default="/retain", pattern=r"^/[\w./-]+$", description="where it is in the pod")
    sub_path: str = Field(default="", description="folder inside the volume; empty: all of it")
    scratch: Quantity = Field(default="50Gi", description="bytes of a pod's own folder, where there is no claim")


class SecretRef(StepConfig):
    """A Kubernetes secret whose entries become environment variables; its values are never seen by retain's tools."""

    name: str = Field(min_length=1, description="name of the secret")
    keys: dict[str, str] = Field(min_length=1, description="environment variable: key in the secret")
    optional: bool = Field(default=False, description="start the pod where the secret is missing")


class Webhook(StepConfig):
    """Where the verdict of every run is posted: an address in a secret, given to the last task alone."""

    secret: str = Field(default="", description="name of the secret; empty: nobody is told")
    key: str = Field(default="url", min_length=1, description="key in the secret that holds the https:// address")


class Judge(StepConfig):
    """Where the key of the judging model's endpoint lies, given to the step ``judge`` alone."""

    secret: str = Field(default="", description="name of the secret; empty: an endpoint without a key")
    key: str = Field(default="api-key", min_length=1, description="key in the secret; its value becomes the variable that score.judge.api_key_env names")  # fmt: skip


class Profile(StepConfig):
    """How a pipeline runs on one cluster."""

    registry: str = Field(default="", pattern=r"^([\w.-]+(:\d+)?(/[\w.-]+)*)?$", description="where the two images lie, e.g. registry.example.com/ml; empty: given by --registry")  # fmt: skip
    digests: dict[Literal["cpu", "gpu"], Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = Field(
        default={}, description="content digest of each image; given by --image-digest in CI"
    )
    pull_secrets: list[str] = Field(default=[], description="secrets that open the registry")
    mlflow: str = Field(pattern=r"^https?://[^@\s]+$", description="address of the MLflow server (MLFLOW_TRACKING_URI)")
    mlflow_ui: str = Field(
        default="", pattern=r"^(https?://[^@\s]+)?$", description="its address for people, in links; empty: as mlflow"
    )
    kfp_ui: str = Field(
        default="",
        pattern=r"^(https?://[^@\s]+)?$",
        description="address of the KFP pages for people, e.g. https://kubeflow.example.com/pipeline, in links; empty: no link",
    )
    webhook: Webhook = Field(default=Webhook(), description="who is told how a run ended")
    judge: Judge = Field(default=Judge(), description="key of the model that judges answers")
    form_choices: bool = Field(
        default=False,
        description="the run form offers a list where a parameter can only be one of some words (KFP servers from 2.16, pages from 2.17); older servers refuse the pipeline",
    )
    environment: dict[str, str] = Field(default={}, description="variables of every pod; nothing secret, nothing that changes a result")  # fmt: skip
    secrets: list[SecretRef] = Field(default=[], description="secrets as environment variables, by reference")
    home: Home = Field(default=Home(), description="RETAIN_HOME")
    run_as_non_root: bool = Field(default=True, description="refuse root in every pod (KFP servers from 2.17 on)")
    cache_uri: str = Field(
        default="",
        pattern=r"^(s3://[^/@\s]+/?\S*)?$",
        description="s3://bucket/prefix where finished scores are shared by content (a base is scored once for all teams); empty: only in home",
    )
    models_uri: str = Field(
        default="",
        pattern=r"^(s3://[^/@\s]+/?\S*|/[\w./-]+)?$",
        description="where the weights of adapters and models lie between the steps: a folder on the home volume, or s3://bucket/prefix (let it forget old ones by a rule of the bucket); empty: inside the artifacts, which every step sends and fetches whole",
    )
    service_account: str = Field(default="", description="service account of the run; empty: the server's own choice")
    train_nodes: int = Field(default=1, ge=1, le=1024, description="nodes that train together; above 1 the train step makes a Kubeflow TrainJob (trainer v2), with steps.train.gpu_count processes a node, and follows it")  # fmt: skip
    train_runtime: str = Field(default="retain-torch", pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", description="TrainingRuntime of the namespace that a TrainJob refers to (the chart's, with trainer.runtime.enabled)")  # fmt: skip
    pipeline_root: str = Field(default="", description="where artifacts go, e.g. s3://bucket/retain; empty: the server's own choice")  # fmt: skip
    steps: dict[str, PodSettings] = Field(description="pods by step, complete")

    @model_validator(mode="after")
    def _safe(self) -> "Profile":
        for name, pod in self.steps.items():
            _only_where_it_helps(name, pod)
        for name, value in self.environment.items():
            _plain_variable(name, value)
        self._one_node_for_one_writer()
        self._weights_where_all_steps_see_them()
        if self.train_nodes > 1 and (not self.home.claim or self.home.access_mode != "ReadWriteMany"):
            raise ValueError(
                f"train_nodes {self.train_nodes}: all nodes read the mixture and write checkpoints in one place; give home a ReadWriteMany claim"
            )
        return self

    def _one_node_for_one_writer(self) -> None:
        """A ReadWriteOnce volume is attached to one node: steps elsewhere would wait for it for ever."""
        if not self.home.claim or self.home.access_mode == "ReadWriteMany":
            return
        hosts = {pod.node_selector.get(HOST_LABEL, "") for pod in self.steps.values()}
        if hosts == {""} or len(hosts) > 1:
            named = ", ".join(sorted(host for host in hosts if host)) or "any node"
            raise ValueError(
                f"home.claim {self.home.claim} is ReadWriteOnce, but the steps run on {named}: one node only can have it; "
                f"take a ReadWriteMany claim, leave home.claim empty and use s3://, or give defaults.node_selector one {HOST_LABEL}"
            )

    def _weights_where_all_steps_see_them(self) -> None:
        if not self.models_uri.startswith("/"):
            return
        if not self.home.claim or not PurePosixPath(self.models_uri).is_relative_to(self.home.mount_path):
            raise ValueError(
                f"models_uri {self.models_uri} is no folder that all steps share; "
                f"put it under home.mount_path ({self.home.mount_path}) with a home.claim, or on s3://"
            )
        if PurePosixPath(self.models_uri) == PurePosixPath(self.home.mount_path) / "models":
            raise ValueError(
                f"models_uri {self.models_uri}: published models lie there, and those are kept; take another folder"
            )


def _only_where_it_helps(step: str, pod: PodSettings) -> None:
    if pod.gpu_count and step not in WITH_TORCH:
        raise ValueError(f"steps.{step} runs the cpu image, which has no torch: a GPU would stand idle")
    if pod.retries and step not in RETRIED:
        raise ValueError(
            f"steps.{step}: its failure is an answer, and an answer is not asked for twice; retries are for {', '.join(RETRIED)}"
        )


def _plain_variable(name: str, value: str) -> None:
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise ValueError(f"environment: '{name}' is no name of a variable (capitals, digits, _)")
    if name in OURS:
        raise ValueError(f"environment: {name} is set by retain itself")
    if SECRET_NAME.search(name) or re.search(r"//[^/\s]*@", value):
        raise ValueError(f"environment: {name} looks like a secret; name it under secrets, by reference")


def profiles() -> dict[str, Path]:
    """The shipped profiles by name."""
    folder = Path(str(files("retain_pipelines"))) / "profiles"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(name: str) -> Profile:
    """A profile by its shipped name or its path. ConfigError (2) for whatever is wrong in it, with its full path."""
    path = _find(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("this profile is not YAML", where=str(path), got=str(error).replace("\n", " ")) from None
    if not isinstance(values, Mapping):
        raise ConfigError("this profile is empty", where=str(path), expected="a YAML mapping with mlflow: and steps:")
    return parse(Profile, with_defaults(values), where="profile")


def _find(name: str) -> Path:
    shipped = profiles()
    if name in shipped:
        return shipped[name]
    if Path(name).is_file():
        return Path(name)
    near = nearest(name, list(shipped))
    raise ConfigError(
        "there is no such profile", got=name, expected=f"a path, or one of {', '.join(shipped)}",
        fix=f"did you mean '{near}'?" if near else "copy profiles/default.yaml and change it",
    )  # fmt: skip


def with_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """``defaults`` laid under every step: a complete entry for each."""
    defaults, steps = _group(values, "defaults"), _group(values, "steps")
    parse(PodSettings, defaults, where="profile.defaults")
    for name in set(steps) - set(STEPS):
        near = nearest(str(name), list(STEPS))
        raise ConfigError(f"profile.steps.{name}: no such step", fix=f"did you mean '{near}'?" if near else "", expected=", ".join(STEPS))  # fmt: skip
    rest = {key: value for key, value in values.items() if key not in ("defaults", "steps")}
    return {**rest, "steps": {name: merge(defaults, _group(steps, name)) for name in STEPS}}


def _group(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name) or {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"profile.{name}: a group of settings is wanted here", got=found)
    return found
