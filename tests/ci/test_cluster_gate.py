"""The CI templates that submit regression-gate, run as they stand: a stand-in for the KFP server, a real object store."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml
from kfp_server import World, serving

from retain import s3 as store

ROOT = Path(__file__).resolve().parents[2]
CPU, GPU = "sha256:" + "a" * 64, "sha256:" + "b" * 64
STORE = "s3://models/artifacts"
VERDICT: dict[str, Any] = {
    "schema": "retain.verdict/1", "verdict": "regressed", "exit_code": 3, "warnings": [],
    "reasons": [{"code": "integrity", "benchmark": "", "got": "reading fell", "limit": 0.0, "items_needed": 0, "role": "base"}],
}  # fmt: skip


@pytest.fixture
def host(s3: str) -> Iterator[str]:
    """A server on which every run regresses, and leaves its verdict in the store."""
    done = dict.fromkeys(("pair", "score-base", "score-candidate", "gate"), "SUCCEEDED")
    world = World(script=[{"pair": "RUNNING"}, {**done, "stop-regressed": "FAILED"}], end="FAILED", token="tok-1")

    def leave(run: Any) -> None:
        store.write(f"{STORE}/regression-gate/{run.run_id}/gate/verdict/verdict.json", json.dumps(VERDICT).encode())

    world.on_run = leave
    with serving(world) as address:
        yield address


def environment(**more: str) -> dict[str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return {**os.environ, "PYTHONPATH": paths, "RETAIN": f"{sys.executable} -m retain_pipelines.cli", "RETAIN_KFP_TOKEN": "tok-1", **more}  # fmt: skip


def shell(script: str, folder: Path, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-ec", script], cwd=folder, env=values, capture_output=True, text=True, check=False)


def blocked(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 3, done.stdout + done.stderr
    assert "reading fell" in (folder / "retain-gate" / "comment.md").read_text()
    assert (folder / "retain-gate" / "junit.xml").read_text().startswith("<?xml")
    assert "tok-1" not in done.stdout + done.stderr


@pytest.mark.timeout(200)
def test_the_github_action_submits_waits_and_blocks(host: str, tmp_path: Path) -> None:
    action = yaml.safe_load((ROOT / ".github/actions/gate-cluster/action.yml").read_text())
    (step,) = action["runs"]["steps"]
    given = {
        "HOST": host, "NAMESPACE": "team", "RECIPE": "quickstart", "CANDIDATE": "s3://models/tuned", "PROFILE": "default", "ARTIFACTS": STORE,
        "REGISTRY": "registry.example.com/ml", "DIGESTS": f"cpu={CPU}\ngpu={GPU}\n", "GITHUB_OUTPUT": str(tmp_path / "output"),
    }  # fmt: skip
    assert set(given) - {"GITHUB_OUTPUT"} == set(step["env"]) - {"RETAIN"}
    blocked(shell(step["run"], tmp_path, environment(**given)), tmp_path)


@pytest.mark.timeout(200)
def test_the_gitlab_job_submits_waits_and_blocks(host: str, tmp_path: Path) -> None:
    job = yaml.safe_load((ROOT / ".gitlab/gate-cluster.yml").read_text())["retain-gate-cluster"]
    given = {
        "RETAIN_RECIPE": "quickstart", "RETAIN_CANDIDATE": "s3://models/tuned", "RETAIN_KFP_HOST": host, "RETAIN_KFP_NAMESPACE": "team",
        "RETAIN_PROFILE": "default", "RETAIN_REGISTRY": "registry.example.com/ml", "RETAIN_CPU_DIGEST": CPU, "RETAIN_GPU_DIGEST": GPU,
        "RETAIN_ARTIFACTS": STORE,
    }  # fmt: skip
    blocked(shell("\n".join(job["script"]), tmp_path, environment(**given)), tmp_path)
    silent = shell("\n".join(job["after_script"]), tmp_path, environment(CI_MERGE_REQUEST_IID=""))
    assert silent.returncode == 0, silent.stderr


@pytest.mark.parametrize(("file", "name"), [("gate.yml", "retain-gate"), ("gate-cluster.yml", "retain-gate-cluster")])
def test_the_gitlab_job_writes_the_table_into_the_merge_request(file: str, name: str, tmp_path: Path) -> None:
    job = yaml.safe_load((ROOT / ".gitlab" / file).read_text())[name]
    (tmp_path / "retain-gate").mkdir()
    (tmp_path / "retain-gate/comment.md").write_text("| reading | −3 % & more |\n")
    with listening() as (address, got):
        place = {"CI_API_V4_URL": address, "CI_PROJECT_ID": "7", "CI_MERGE_REQUEST_IID": "42", "GITLAB_TOKEN": "tok-2"}
        done = shell("\n".join(job["after_script"]), tmp_path, environment(**place))
    assert done.returncode == 0, done.stderr
    assert got == [("/projects/7/merge_requests/42/notes", "tok-2", {"body": ["| reading | −3 % & more |\n"]})]


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, list[tuple[str, str, dict[str, list[str]]]]]]:
    """An address that takes notes: (path, token, form)."""
    got: list[tuple[str, str, dict[str, list[str]]]] = []

    class Notes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            got.append((self.path, self.headers["PRIVATE-TOKEN"], form))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Notes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()


def test_the_workflow_gives_the_action_what_it_takes() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/regression-gate.yml").read_text())
    action = yaml.safe_load((ROOT / ".github/actions/gate-cluster/action.yml").read_text())
    used = next(step for step in workflow["jobs"]["gate"]["steps"] if "gate-cluster" in step.get("uses", ""))
    required = {name for name, entry in action["inputs"].items() if entry.get("required")}
    assert required <= set(used["with"]) <= set(action["inputs"])
    assert "secrets." in used["env"]["RETAIN_KFP_TOKEN"]
