"""What people and machines do to a registry: folders that are in use, edits, silence, moves at the same moment, odd names."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.config import parse
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.publish import registry, stores
from retain.publish.config import PublishConfig
from retain.publish.mlflow_versions import MlflowRegistry
from retain.publish.versions import open_registry
from retain.publish.work import publish

Judged = Callable[..., Path]
Another = Callable[[int], Path]
ORDERS = PublishConfig(name="orders")


def test_a_pull_takes_nobodys_files_away(model: Path, judged: Judged, another: Another, tmp_path: Path) -> None:
    two = another(2)
    publish(ORDERS, model, judged(model))
    second = publish(ORDERS, two, judged(two))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("four years")
    with pytest.raises(ConfigError, match="something else"):
        registry.pull("orders", "1", mine)
    assert (mine / "thesis.tex").read_text() == "four years"
    pulled = tmp_path / "pulled"
    registry.pull("orders", "1", pulled)
    assert registry.pull("orders", "2", pulled).digest == second.digest == digest.of_model(pulled)  # an earlier pull
    (pulled / "notes.md").write_text("tried it by hand")
    with pytest.raises(ConfigError, match="something else"):
        registry.pull("orders", "1", pulled)
    (pulled / "notes.md").unlink()
    (pulled / "generation_config.json").write_text('{"max_length": 7}')
    with pytest.raises(ConfigError, match="changed since it was pulled"):
        registry.pull("orders", "2", pulled)
    with pytest.raises(IntegrityError, match="another model"):  # and what was edited is not what was gated
        publish(ORDERS, pulled, judged(model))
    assert not list(tmp_path.glob(".*partial"))


def test_a_killed_pull_leaves_no_model_and_the_next_one_tidies_up(model: Path, judged: Judged, tmp_path: Path) -> None:
    publish(ORDERS, model, judged(model))
    code = f"""
        import os, signal
        from pathlib import Path
        from retain.publish import registry
        def die(*given): os.kill(os.getpid(), signal.SIGKILL)
        registry.compare = die
        registry.pull("orders", "1", Path({str(tmp_path / "pulled")!r}))
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env).returncode == -signal.SIGKILL
    assert not (tmp_path / "pulled").exists()
    assert list(tmp_path.glob(".pulled.pull.partial/*"))
    registry.pull("orders", "1", tmp_path / "pulled")
    assert not list(tmp_path.glob(".*partial"))


def test_a_model_that_changes_while_it_is_copied_gets_no_place(
    model: Path, judged: Judged, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict, real = judged(model), shutil.copyfile

    def meanwhile(source: Path, target: Path) -> None:
        real(source, target)
        if source.name == "config.json":
            Path(target).write_text("{}")

    monkeypatch.setattr(stores.shutil, "copyfile", meanwhile)
    with pytest.raises(IntegrityError, match="other bytes"):
        publish(ORDERS, model, verdict)
    assert not list((home / "models").iterdir())
    monkeypatch.undo()
    monkeypatch.setenv("RETAIN_HOME", str(home))
    assert publish(ORDERS, model, verdict).version == 1


def test_what_killed_publishers_left_is_swept_after_a_day(model: Path, judged: Judged, home: Path) -> None:
    place = home / "models" / digest.of_model(model).removeprefix("sha256:")
    old, young = (place.with_name(f"{place.name}.{name}.partial") for name in ("aaa", "bbb"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"half")
    before = time.time() - 2 * stores.STALE_SECONDS
    for path in (old / "model.safetensors", old):
        os.utime(path, (before, before))
    publish(ORDERS, model, judged(model))
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_store_may_have_any_name(form: str, model: Path, judged: Judged, tmp_path: Path) -> None:
    shelf = tmp_path / "50% off ü → all%20of it#1?"
    address = form.format(shelf if form == "{}" else stores.quote(str(shelf)))
    done = publish(PublishConfig(name="orders", store=address), model, judged(model))
    assert [path.name for path in shelf.iterdir()] == [done.digest.removeprefix("sha256:")]
    assert registry.pull("orders", "1", tmp_path / "pulled here").digest == done.digest


def test_a_promotion_during_a_rollback_waits_and_is_then_refused(
    model: Path, judged: Judged, another: Another, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = publish(ORDERS, model, judged(model)), another(2), another(3)
    registry.promote("orders")
    done = publish(ORDERS, two, judged(two, baselines=[{"role": "champion", "digest": one.digest}]))
    registry.promote("orders")
    publish(ORDERS, three, judged(three, baselines=[{"role": "champion", "digest": done.digest}]))
    moving, real = threading.Event(), MlflowRegistry.set_alias

    def slow(self: MlflowRegistry, alias: str, version: int) -> None:
        moving.set()
        time.sleep(0.5)
        real(self, alias, version)

    monkeypatch.setattr(MlflowRegistry, "set_alias", slow)
    back = threading.Thread(target=registry.rollback, args=("orders",))
    back.start()
    moving.wait(20)
    with pytest.raises(IntegrityError, match="model in service"):
        registry.promote("orders", "3")
    back.join()
    champion = open_registry("orders").by_alias("champion")
    assert champion is not None
    assert champion.version == 1


@pytest.fixture
def silent() -> Iterator[str]:
    """host:port that takes every connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept: list[Any] = []
        thread = threading.Thread(target=lambda: _take(server, kept), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in kept:
        connection.close()


def _take(server: socket.socket, kept: list[Any]) -> None:
    while True:
        try:
            kept.append(server.accept()[0])
        except OSError:
            return


def test_a_registry_that_says_nothing_is_not_waited_for_for_ever(
    silent: str, model: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retain.oci.WAIT_SECONDS", (1, 0.2))
    monkeypatch.setattr("retain.oci.ATTEMPTS", 2)
    with pytest.raises(EnvironmentFault, match="OCI registry did not answer"):
        publish(PublishConfig(name="orders", store=f"oci://{silent}/team/orders"), model, judged(model))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter2@{silent}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(EnvironmentFault, match="registry failed") as caught:
        publish(ORDERS, model, judged(model))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIA:hunter2@bucket", "s3://AKIA:hunter2@bucket/x", "s3://AKIA:hun/ter2@bucket/x", "oci://me:hunter2@registry.example/x", "ftp://me:hunter2@host/x",
        "https://hunter2@host.example/x", "hf://me:hunter2@org/name", "https://host.example/x?X-Amz-Signature=hunter2&a=b",
    ],
)  # fmt: skip
def test_a_credential_in_an_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ConfigError, match="holds no user") as caught:
        parse(PublishConfig, {"store": address}, where="publish")
    error = EnvironmentFault(
        "failed", where=address, got=f"GET {address}: 500", expected=address, fix=f"look at {address}"
    )
    said = f"{caught.value} {error} {error.where} {error.got}"
    assert "hunter2" not in said
    assert "ter2" not in said
    for plain in ("mlflow://model@champion", "hf://org/name@" + "a" * 40, "oci://host:5000/name@sha256:" + "b" * 64, "s3://bucket/x", "https://host/x?page=2"):  # fmt: skip
        assert EnvironmentFault("failed", got=plain).got == plain
