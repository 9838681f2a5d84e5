"""A training on several nodes: a Kubeflow TrainJob (trainer v2) written from the same config, and followed to its end.

The step's pod puts rows and settings into a workspace (a folder of RETAIN_HOME, which all nodes share), makes the job,
passes on its metrics and fetches the adapter. Nothing of it changes a result: the global batch is the recipe's own, on any number
of processes. Where to run comes from the profile, by environment (RETAIN_TRAIN_JOB).
"""

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from retain.config import StepConfig, parse
from retain.errors import ConfigError, EnvironmentFault, RetainError
from retain.steps import say
from retain.tracking import run_id
from retain.train.config import TrainConfig
from retain.train.work import TrainResult
from retain.train.workspace import Log, Workspace

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
VARIABLE = "RETAIN_TRAIN_JOB"
POLL_SECONDS, AWAY_SECONDS = 5.0, 600.0
LOG_LINES = 40


class Nodes(StepConfig):
    """Where a training on several nodes runs; from the profile."""

    nodes: int = Field(ge=2, le=1024, description="nodes that train together")
    processes: int = Field(default=1, ge=1, le=64, description="processes of one node, one for each GPU")
    image: str = Field(min_length=1, description="the gpu image, as this step has it")
    runtime: str = Field(min_length=1, description="name of the TrainingRuntime (the chart makes one)")
    namespace: str = Field(default="", description="namespace of the job; empty: this pod's own")


def asked() -> Nodes | None:
    """What the profile asks for, or None where one pod trains."""
    text = os.environ.get(VARIABLE, "")
    return parse(Nodes, json.loads(text), where=VARIABLE) if text else None


def manifest(nodes: Nodes, name: str, folder: Path, owner: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The TrainJob: torchrun on every node, over a folder that all of them see. owner: the pod it goes away with."""
    labels = {"app.kubernetes.io/part-of": "retain", "app.kubernetes.io/component": "train", "retain/run": _label(run_id())}  # fmt: skip
    return {
        "apiVersion": f"{GROUP}/{VERSION}", "kind": "TrainJob",
        "metadata": {"name": name, "labels": labels, **({"ownerReferences": [dict(owner)]} if owner else {})},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": nodes.runtime},
            "trainer": {
                "image": nodes.image, "numNodes": nodes.nodes, "numProcPerNode": nodes.processes,
                "command": ["torchrun", "--module", "retain.train.node", str(folder)],
                "env": [{"name": "RETAIN_RUN_ID", "value": run_id()}],
            },
        },
    }  # fmt: skip


def train(nodes: Nodes, config: TrainConfig, base: Mapping[str, str], mixture: Path, adapter: Path, log: Log, *, api: Any = None) -> TrainResult:  # fmt: skip
    """Train on ``nodes`` and put the adapter into ``adapter``; ends with the error and the exit code that a node ended with.

    api: the Kubernetes API client; None: that of the pod's own service account.
    """
    if config.processes not in ("auto", nodes.processes):
        raise ConfigError("the profile says how many processes each node has", where="train.processes", got=config.processes, expected=nodes.processes, fix="leave it at auto, or change the profile")  # fmt: skip
    work = Workspace(config, base, mixture)
    job = Job(nodes, work.name, api or in_cluster())
    try:
        if not job.is_there():  # else this step was killed and came back: the job is followed
            work.forget()
            job.make(manifest(nodes, work.name, work.folder, job.owner()))
        failed = job.follow(lambda: work.pass_on(log))
    finally:
        job.remove()
    return work.result(adapter, failed)


class Job:
    """One TrainJob at the Kubernetes API; a server that is away is asked again for ten minutes."""

    def __init__(self, nodes: Nodes, name: str, api: Any) -> None:
        from kubernetes import client

        self.name, self.namespace = name, nodes.namespace or _own_namespace()
        self.jobs, self.core = client.CustomObjectsApi(api), client.CoreV1Api(api)
        self._place = (GROUP, VERSION, self.namespace, PLURAL)

    def owner(self) -> dict[str, Any] | None:
        """This pod, so that the cluster deletes the job with it, however it ends; None outside a pod."""
        from kubernetes.client.exceptions import ApiException

        name = os.environ.get("HOSTNAME", "")
        try:
            uid = self.core.read_namespaced_pod(name, self.namespace).metadata.uid if name else ""
        except ApiException:
            return None
        return {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid} if uid else None

    def is_there(self) -> bool:
        from kubernetes.client.exceptions import ApiException

        try:
            return bool(self.jobs.get_namespaced_custom_object(*self._place, self.name))
        except ApiException as error:
            if error.status == 404:
                return False
            raise self._explained(error) from None

    def make(self, body: dict[str, Any]) -> None:
        from kubernetes.client.exceptions import ApiException

        try:
            self.jobs.create_namespaced_custom_object(*self._place, body)
        except ApiException as error:
            raise self._explained(error) from None
        say(f"TrainJob {self.namespace}/{self.name}: {body['spec']['trainer']['numNodes']} nodes")

    def follow(self, meanwhile: Callable[[], None]) -> str:
        """Wait for the end → "" where it succeeded, else why it failed, with the last lines of a node's log."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        answered = time.monotonic()
        while True:
            meanwhile()
            try:
                found = self.jobs.get_namespaced_custom_object(*self._place, self.name)
                answered = time.monotonic()
            except (ApiException, HTTPError) as error:
                status = getattr(error, "status", 0) or 0
                if 400 <= status < 500 or time.monotonic() - answered > AWAY_SECONDS:
                    raise self._explained(error) from None
                found = {}
            for condition in found.get("status", {}).get("conditions", []):
                if condition["status"] == "True" and condition["type"] in ("Complete", "Failed"):
                    meanwhile()
                    return "" if condition["type"] == "Complete" else f"{condition.get('message', '')}\n{self._said()}"
            time.sleep(POLL_SECONDS)

    def _said(self) -> str:
        """Exit code and last lines of the pods that failed."""
        from kubernetes.client.exceptions import ApiException

        lines = []
        try:
            pods = self.core.list_namespaced_pod(self.namespace, label_selector=f"jobset.sigs.k8s.io/jobset-name={self.name}").items  # fmt: skip
            for pod in pods:
                ended = [s.state.terminated for s in pod.status.container_statuses or [] if s.state and s.state.terminated]  # fmt: skip
                codes = [end.exit_code for end in ended if end.exit_code]
                if codes:
                    tail = self.core.read_namespaced_pod_log(pod.metadata.name, self.namespace, tail_lines=LOG_LINES)
                    lines.append(f"{pod.metadata.name} ended with {codes[0]}:\n{tail}")
        except ApiException as error:
            lines.append(f"its log could not be read: {error.status} {error.reason}")
        return "\n".join(lines)

    def remove(self) -> None:
        """Delete the job and its pods; they write a checkpoint where they were still at work."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            self.jobs.delete_namespaced_custom_object(*self._place, self.name, propagation_policy="Foreground")
        except (ApiException, HTTPError) as error:
            if getattr(error, "status", 0) != 404:
                say(f"TrainJob {self.namespace}/{self.name} was not deleted: {error}")

    def _explained(self, error: Exception) -> RetainError:
        status = getattr(error, "status", 0) or 0
        where = f"TrainJob {self.namespace}/{self.name}"
        if status in (401, 403):
            return EnvironmentFault("this pod may not make TrainJobs", where=where, got=status, fix="install the chart with trainer.enabled: true and run with its service account")  # fmt: skip
        if status == 404:
            return EnvironmentFault("the TrainJob is gone, or this cluster knows no TrainJobs", where=where, got=status, fix="install Kubeflow Trainer v2; run again: training goes on from its checkpoint")  # fmt: skip
        if 400 <= status < 500:
            return ConfigError("the cluster refused the TrainJob", where=where, got=getattr(error, "body", "") or status, fix="check train_runtime and train_nodes of the profile")  # fmt: skip
        return EnvironmentFault("the Kubernetes API does not answer", where=where, got=str(error).splitlines()[0], fix="run again: training goes on from its checkpoint")  # fmt: skip


def in_cluster() -> Any:
    """The API as this pod's service account sees it."""
    from kubernetes import client, config

    try:
        config.load_incluster_config()
    except config.ConfigException as error:
        raise EnvironmentFault("a TrainJob is made from a pod, and this is none", got=str(error), fix=f"unset {VARIABLE}, or run on the cluster") from None  # fmt: skip
    return client.ApiClient()


def _own_namespace() -> str:
    file = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return file.read_text(encoding="utf-8").strip() if file.is_file() else "default"


def _label(text: str) -> str:
    return re.sub(r"[^\w.-]", "-", text)[:63].strip("-._")
