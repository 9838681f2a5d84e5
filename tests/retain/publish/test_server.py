"""The registry as a team has it: an MLflow server on PostgreSQL, the files in S3; all real, on loopback."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retain import digest, uris
from retain.errors import EnvironmentFault
from retain.publish import registry
from retain.publish.config import PublishConfig
from retain.publish.versions import Registry
from retain.publish.work import publish
from retain.steps import die_with_parent

from .conftest import free_port, wait_for

Judged = Callable[..., Path]
PASSWORD = "p:a/s@s w%20rd"  # as a password may be: it would break an address


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Port of a PostgreSQL with a database ``mlflow`` that asks for the password."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(p).parent for p in [shutil.which("initdb")] if p]
    if not found:
        pytest.skip("no PostgreSQL here (Debian: apt install postgresql): nothing was tried against an MLflow server on it")  # fmt: skip
    folder, port = tmp_path_factory.mktemp("postgres"), free_port()
    user = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
    if user:
        for above in [folder, *folder.parents[:3]]:
            above.chmod(above.stat().st_mode | 0o055)
        shutil.chown(folder, "postgres", "postgres")
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    init = [found[-1] / "initdb", "-D", folder / "data", "-U", "mlflow", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--no-sync"]  # fmt: skip
    subprocess.run(init, check=True, capture_output=True, **user)
    run = [found[-1] / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-c", "fsync=off"]
    server = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent, **user)  # fmt: skip
    try:
        wait_for(port, server)
        make = [found[-1] / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
        for _ in range(100):
            if subprocess.run(make, env={**os.environ, "PGPASSWORD": PASSWORD}, capture_output=True).returncode == 0:
                break
            time.sleep(0.2)
        yield port
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def mlflow_server(postgres: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server whose registry lies in that database; its password travels by libpq's own variable."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"postgresql+psycopg://mlflow@127.0.0.1:{postgres}/mlflow", "--default-artifact-root", str(folder),
    ]  # fmt: skip
    more = {"PGPASSWORD": PASSWORD, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env={**os.environ, **more}, stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_parent)  # fmt: skip
    try:
        wait_for(port, server, 240)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


@pytest.fixture
def team(mlflow_server: str, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)


def config(name: str) -> PublishConfig:
    return PublishConfig(name=name, store=f"s3://models/{name}")


def test_published_promoted_and_pulled(team: None, model: Path, judged: Judged, tmp_path: Path) -> None:
    done = publish(config("whole"), model, judged(model))
    assert (done.version, done.source.startswith("s3://models/whole/")) == (1, True)
    assert registry.promote("whole").aliases == ("candidate", "champion")
    pulled = registry.pull("whole", "champion", tmp_path / "pulled")
    assert digest.of_model(pulled.folder) == done.digest == digest.of_model(uris.fetch("mlflow://whole@champion", tmp_path / "cache"))  # fmt: skip


@pytest.mark.parametrize("where", ["s3._at_once", "s3.sha256", "versions.Registry.create", "versions.Registry.set_alias"])  # fmt: skip
def test_killed_anywhere_a_second_run_finishes(team: None, model: Path, judged: Judged, where: str) -> None:
    verdict, name = judged(model), "killed-" + where.rpartition(".")[2].strip("_")
    code = f"""
        import os, signal
        from pathlib import Path
        from retain import s3
        from retain.publish import versions
        from retain.publish.config import PublishConfig
        from retain.publish.work import publish
        def die(*args, **more): os.kill(os.getpid(), signal.SIGKILL)
        owner, _, name = {where!r}.rpartition(".")
        setattr(eval(owner), name, die)
        publish(PublishConfig(name={name!r}, store="s3://models/{name}"), Path({str(model)!r}), Path({str(verdict)!r}))
    """
    killed = run(code)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert [v.aliases for v in Registry(name).all()] in ([], [()])
    done = publish(config(name), model, verdict)
    assert (done.version, done.aliases) == (1, ("candidate",))
    assert len(Registry(name).all()) == 1


def run(code: str) -> "subprocess.Popen[str]":
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=env, stdout=subprocess.PIPE, text=True)


def test_sixteen_publishers_make_one_version(team: None, model: Path, judged: Judged) -> None:
    verdict = judged(model)
    code = f"""
        import threading
        from pathlib import Path
        from retain.publish.config import PublishConfig
        from retain.publish.work import publish
        def one():
            done = publish(PublishConfig(name="rush", store="s3://models/rush"), Path({str(model)!r}), Path({str(verdict)!r}))
            print(f"{{done.version}} {{done.created}}\\n", end="", flush=True)
        threads = [threading.Thread(target=one) for _ in range(8)]
        [t.start() for t in threads]; [t.join() for t in threads]
    """
    processes = [run(code), run(code)]
    said = [line for p in processes for line in p.communicate(timeout=250)[0].splitlines()]
    assert len(said) == 16
    assert len({line.split()[0] for line in said}) == 1
    assert sum(line.endswith("True") for line in said) == 1
    (version,) = Registry("rush").all()
    assert version.aliases == ("candidate",)


def test_the_server_away_and_back(team: None, model: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    verdict, whole = judged(model), Registry.create
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with monkeypatch.context() as away:

        def cut(self: Registry, *given: Any) -> Any:
            away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
            return whole(Registry(self.name), *given)

        away.setattr(Registry, "create", cut)
        with pytest.raises(EnvironmentFault, match="the registry failed"):
            publish(config("away"), model, verdict)
    assert Registry("away").all() == []
    assert publish(config("away"), model, verdict).version == 1
