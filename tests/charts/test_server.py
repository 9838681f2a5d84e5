"""The MLflow server with the chart's own arguments and variables on a real PostgreSQL, and the runbook's backup of it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from charts_of import CHART, pod_spec

PASSWORD = "p:a/s@s w%20rd"  # as a password may be: it would break an address
HOST = "retain-mlflow.retain.svc.cluster.local:5000"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """A PostgreSQL that asks for the password; (port, environment of its container)."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not binaries[-1].is_file():
        pytest.skip("no PostgreSQL on this machine (Debian: postgresql): the server's own test is left out")
    folder = tmp_path_factory.mktemp("postgres")
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
    for above in [folder, *folder.parents[:3]]:
        above.chmod(0o755) if user and above.owner() == "root" and above != Path("/tmp") else None
    if user:
        shutil.chown(folder, "postgres", "postgres")
    (folder / "password").write_text(PASSWORD, encoding="utf-8")
    (folder / "password").chmod(0o644)
    port, data = free_port(), folder / "data"
    arguments = ["--auth-host=scram-sha-256", "--auth-local=scram-sha-256", "--data-checksums", "--no-sync"]
    subprocess.run([binaries[-1], "-D", data, "-U", "mlflow", f"--pwfile={folder / 'password'}", *arguments], check=True, capture_output=True, **user)  # fmt: skip
    server = subprocess.Popen(
        [binaries[-1].with_name("postgres"), "-D", data, "-p", str(port), "-k", folder, "-c", "fsync=off"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user,
    )  # fmt: skip
    inside = {"POSTGRES_USER": "mlflow", "POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": "mlflow", "PGPORT": str(port)}
    ask = {**os.environ, "PGPASSWORD": PASSWORD}
    for _ in range(100):
        if not subprocess.run(["createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"], env=ask, capture_output=True).returncode:  # fmt: skip
            break
        time.sleep(0.2)
    yield port, {**os.environ, **inside}
    server.terminate()
    server.wait(20)


def as_deployed(deployment, port, artifacts, own_port):
    """Command and environment of the container, with this machine's places put in."""
    (container,) = pod_spec(deployment)["containers"]
    secrets = {"PGUSER": "mlflow", "PGPASSWORD": PASSWORD}
    environment = {v["name"]: v["value"] if "value" in v else secrets[v["name"]] for v in container["env"]}
    environment["MLFLOW_BACKEND_STORE_URI"] = environment["MLFLOW_BACKEND_STORE_URI"].replace("retain-postgres:5432", f"127.0.0.1:{port}")  # fmt: skip
    replaced = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={own_port}", "--artifacts-destination=/artifacts": f"--artifacts-destination={artifacts}", "--expose-prometheus=/tmp/prometheus": f"--expose-prometheus={artifacts}/prometheus"}  # fmt: skip
    assert set(replaced) <= set(container["args"])
    command = [sys.executable, "-m", *container["command"], *(replaced.get(a, a) for a in container["args"])]
    return command, {"PATH": os.environ["PATH"], **environment, "HOME": str(artifacts)}


@pytest.fixture(scope="module")
def mlflow(named, postgres, tmp_path_factory):
    folder, own_port = tmp_path_factory.mktemp("mlflow"), free_port()
    values = {"monitoring": {"serviceMonitor": {"enabled": True}}}
    command, environment = as_deployed(named("Deployment", "retain-mlflow", values), postgres[0], folder, own_port)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    for _ in range(480):
        if server.poll() is not None or status(own_port, "/health", HOST) == 200:
            break
        time.sleep(0.5)
    assert server.poll() is None, (folder / "log").read_text(encoding="utf-8")[-2000:]
    yield own_port
    os.killpg(server.pid, 15)
    server.wait(30)


def status(port, path, host):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return 0


def test_the_server_answers_by_its_names_only(mlflow):
    experiments = "/api/2.0/mlflow/experiments/search?max_results=1"
    for host in (HOST, "retain-mlflow:5000", "retain-mlflow.retain:5000"):
        assert status(mlflow, experiments, host) == 200, host
    assert status(mlflow, experiments, "evil.example.com") == 403
    assert status(mlflow, "/metrics", "10.1.2.3:5000") == 200  # Prometheus asks by the pod's address


def commands(marker):
    """Shell lines that stand in the README behind a marker, as they are run inside the database's container."""
    text = (CHART / "README.md").read_text(encoding="utf-8")
    block = text.split(f"<!-- {marker} -->")[1].split("```sh\n")[1].split("```")[0]
    (line,) = [line for line in block.splitlines() if "sh -c '" in line]
    return line.split("sh -c '")[1].rpartition("'")[0]


def test_backup_and_restore_as_the_runbook_says(mlflow, postgres, tmp_path):
    port, inside = postgres
    psql = ["psql", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "-At", "-c"]
    ask = {**os.environ, "PGPASSWORD": PASSWORD}

    def query(text):
        return subprocess.run([*psql, text, "mlflow"], env=ask, check=True, capture_output=True, text=True).stdout

    query("create table kept (word text); insert into kept values ('before')")
    with (tmp_path / "dump").open("wb") as dump:
        subprocess.run(["sh", "-c", commands("backup")], env=inside, stdout=dump, check=True)
    query("update kept set word = 'after'")
    with (tmp_path / "dump").open("rb") as dump:
        subprocess.run(["sh", "-c", commands("restore")], env=inside, stdin=dump, check=True, timeout=120)
    assert query("select word from kept") == "before\n"
    assert int(query("select count(*) from experiments")) >= 1
