"""The registry as a team has it: an MLflow server on PostgreSQL, the files in S3; all real, on loopback."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retain import digest, uris
from retain.errors import EnvironmentFault
from retain.publish import registry
from retain.publish.config import PublishConfig
from retain.publish.mlflow_versions import MlflowRegistry
from retain.publish.versions import open_registry
from retain.publish.work import publish

from ... import servers

Judged = Callable[..., Path]
PASSWORD = "p:a/s@s w%20rd"  # as a password may be: it would break an address


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server whose registry lies in PostgreSQL; the password travels by libpq's own variable."""
    folder, port = tmp_path_factory.mktemp("mlflow"), servers.free_port()
    try:
        with servers.postgres(tmp_path_factory.mktemp("postgres"), user="mlflow", password=PASSWORD) as database:
            command = [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
                "--backend-store-uri", f"postgresql+psycopg://mlflow@127.0.0.1:{database}/mlflow", "--default-artifact-root", str(folder),
            ]  # fmt: skip
            more = {"PGPASSWORD": PASSWORD, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "HOME": str(folder)}
            with servers.started(command, folder / "log", env={**os.environ, **more}, start_new_session=True) as server:
                servers.listens(port, server, seconds=240)
                yield f"http://127.0.0.1:{port}"
                os.killpg(server.pid, signal.SIGTERM)
    except servers.Missing as missing:
        pytest.skip(str(missing))


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


@pytest.mark.parametrize("where", ["s3._at_once", "s3.sha256", "MlflowRegistry.create", "MlflowRegistry.set_alias"])  # fmt: skip
def test_killed_anywhere_a_second_run_finishes(team: None, model: Path, judged: Judged, where: str) -> None:
    verdict, name = judged(model), "killed-" + where.rpartition(".")[2].strip("_")
    code = f"""
        import os, signal
        from pathlib import Path
        from retain import s3
        from retain.publish.mlflow_versions import MlflowRegistry
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
    assert [v.aliases for v in open_registry(name).all()] in ([], [()])
    done = publish(config(name), model, verdict)
    assert (done.version, done.aliases) == (1, ("candidate",))
    assert len(open_registry(name).all()) == 1


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
    (version,) = open_registry("rush").all()
    assert version.aliases == ("candidate",)


def test_the_server_away_and_back(team: None, model: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    verdict, whole = judged(model), MlflowRegistry.create
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with monkeypatch.context() as away:

        def cut(self: MlflowRegistry, *given: Any) -> Any:
            away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
            return whole(MlflowRegistry(self.name), *given)

        away.setattr(MlflowRegistry, "create", cut)
        with pytest.raises(EnvironmentFault, match="the registry failed"):
            publish(config("away"), model, verdict)
    assert open_registry("away").all() == []
    assert publish(config("away"), model, verdict).version == 1
