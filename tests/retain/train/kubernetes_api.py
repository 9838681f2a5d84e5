"""The Kubernetes API on loopback, as far as a TrainJob is concerned: what is posted is read into Kubeflow's own models,
and the job really runs, as the torch runtime would run it: torchrun, with the job's own command and environment."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"
PODS = "/api/v1/namespaces/team/pods"


@dataclass
class Cluster:
    """nodes: how many posts were made; forbid: status that a post is answered with; away: requests to answer with 503."""

    environment: dict[str, str]
    forbid: int = 0
    away: int = 0
    after: int = 0  # requests about jobs that are answered before that
    silent: bool = False  # the job ends at once, and its nodes have written nothing
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    posted: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)

    def answers(self) -> bool:
        """One request about a job: whether the server is there for it."""
        if self.after:
            self.after -= 1
            return True
        self.away = max(self.away - 1, -1)
        return self.away < 0

    def post(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        job = TrainerV1alpha1TrainJob.from_dict(body)
        assert job is not None
        if job.to_dict() != body:  # the models drop what they do not know
            return 422, {"message": f"unknown fields: {body} is read as {job.to_dict()}"}
        name = body["metadata"]["name"]
        if name in self.jobs:
            return 409, {"message": "exists"}
        self.posted.append(body)
        self.jobs[name] = body
        if not self.silent:
            self.running[name] = self._start(body["spec"]["trainer"])
        return 201, body

    def _start(self, trainer: dict[str, Any]) -> "subprocess.Popen[str]":
        processes = trainer["numNodes"] * trainer["numProcPerNode"]
        assert trainer["command"][0] == "torchrun"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *trainer["command"][1:]]  # fmt: skip
        own = {entry["name"]: entry["value"] for entry in trainer["env"]}
        return subprocess.Popen(command, env={**self.environment, **own}, stderr=subprocess.PIPE, text=True)

    def get(self, name: str) -> tuple[int, dict[str, Any]]:
        if name not in self.jobs:
            return 404, {"message": "no such job"}
        code = 9 if self.silent else self.running[name].poll()
        kind = None if code is None else "Failed" if code else "Complete"
        when = {"lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "Jobs", "message": f"ended with {code}"}
        conditions = [{"type": kind, "status": "True", **when}] if kind else []
        return 200, {**self.jobs[name], "status": {"conditions": conditions}}

    def delete(self, name: str) -> tuple[int, dict[str, Any]]:
        self.deleted.append(name)
        if name in self.running:
            self.running[name].terminate()
            self.running[name].communicate()
        return (200, {}) if self.jobs.pop(name, None) else (404, {})

    def pods(self) -> dict[str, Any]:
        state = {"terminated": {"exitCode": 9}}
        status = {"containerStatuses": [{"name": "node", "image": "i", "imageID": "i", "ready": False, "restartCount": 0, "state": state}]}  # fmt: skip
        return {"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "node-0"}, "status": status}]}


@contextmanager
def served(**settings: Any) -> Iterator[tuple[Cluster, Any]]:
    """(the cluster, an API client that talks to it)."""
    from kubernetes import client

    cluster = Cluster({**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}, **settings)  # fmt: skip
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(cluster))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    configuration = client.Configuration(host=f"http://127.0.0.1:{server.server_address[1]}")
    configuration.retries = False
    try:
        with client.ApiClient(configuration) as api:
            yield cluster, api
    finally:
        for process in cluster.running.values():
            if process.poll() is None:
                process.kill()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path.startswith(JOBS) and not cluster.answers():
                self._answer(503, {"message": "away"})
            elif path.endswith("/log"):
                self._text(b"Traceback: the disk is on fire\n")
            elif path == PODS:
                self._answer(200, cluster.pods())
            elif path.startswith(f"{PODS}/"):
                self._answer(200, {"metadata": {"name": "step", "uid": "1-2-3"}})
            else:
                self._answer(*cluster.get(path.rpartition("/")[2]))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            refused = cluster.forbid and (cluster.forbid, {"message": "no"})
            self._answer(*(refused or cluster.post(body) if self.path.split("?")[0] == JOBS else (404, {})))

        def do_DELETE(self) -> None:
            self._answer(*cluster.delete(urlsplit(self.path).path.rpartition("/")[2]))

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            self._text(json.dumps(body).encode(), status)

        def _text(self, data: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            return

    return Handler
