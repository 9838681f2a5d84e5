"""Real stores on loopback: S3, an OCI registry, a folder; and what goes wrong with them."""

import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from retain import digest, s3, uris, weights
from retain.errors import ConfigError, EnvironmentFault, IntegrityError
from retain.publish import signing
from retain.publish.config import PublishConfig
from retain.publish.registry import pull
from retain.publish.stores import open_store
from retain.publish.versions import open_registry
from retain.publish.work import publish

Judged = Callable[..., Path]


@pytest.fixture(params=["folder", "s3", "oci"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("s3")
        return "s3://models/published"
    if request.param == "oci":
        return f"oci://{request.getfixturevalue('oci_registry')}/team/orders"
    return str(tmp_path / "shelf")


def test_published_and_pulled_again_with_its_signature(
    store: str, model: Path, judged: Judged, key_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = key_pair
    config = PublishConfig(name="orders", store=store, signing_key=str(private))
    done = publish(config, model, judged(model))
    assert publish(config, model, judged(model)).source == done.source
    got = pull("orders", "candidate", tmp_path / "pulled", public_key=public)
    assert (got.digest, got.signature) == (done.digest, "verified")
    assert digest.of_model(tmp_path / "pulled") == done.digest
    assert "## Verdict" in (tmp_path / "pulled" / "README.md").read_text()
    assert json.loads((tmp_path / "pulled" / "lineage.json").read_text())["digest"] == done.digest
    assert not list(tmp_path.glob(".pull-*"))


def test_a_file_of_many_parts(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retain import s3 as house

    monkeypatch.setattr(house, "PART_BYTES", 5 << 20)
    (tmp_path / "big").mkdir()
    (tmp_path / "big" / "model.safetensors").write_bytes(os.urandom(12 << 20))
    files = {"model.safetensors": digest.of_file(tmp_path / "big" / "model.safetensors").removeprefix("sha256:")}
    for _ in range(2):
        source = open_store("s3://models/parts").put(tmp_path / "big", files, {"README.md": b"x"})
    back = uris.fetch(source, tmp_path / "cache")
    assert digest.of_file(back / "model.safetensors").removeprefix("sha256:") == files["model.safetensors"]
    assert (back / "README.md").read_bytes() == b"x"


def test_a_large_file_goes_to_an_oci_registry_in_pieces(
    oci_registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from requests import Session

    from retain import oci

    sent, real = [], Session.request

    def watched(self: Session, method: str, url: str, **more: object) -> object:
        sent.append((method, len(more.get("data") or b"")))  # type: ignore[arg-type]
        return real(self, method, url, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(oci, "CHUNK_BYTES", 1 << 20)
    monkeypatch.setattr(Session, "request", watched)
    (tmp_path / "model.safetensors").write_bytes(os.urandom((3 << 20) + 7))
    files = {"model.safetensors": digest.of_file(tmp_path / "model.safetensors").removeprefix("sha256:")}
    source = open_store(f"oci://{oci_registry}/team/large").put(tmp_path, files, {})
    assert [size for method, size in sent if method == "PATCH"] == [1 << 20] * 3 + [7]
    assert max(size for _, size in sent) == 1 << 20
    back = uris.fetch(source, tmp_path / "cache")
    assert digest.of_file(back / "model.safetensors").removeprefix("sha256:") == files["model.safetensors"]


@pytest.mark.parametrize(("where", "call"), [("_upload", 3), ("check", 1)])
def test_killed_at_an_oci_registry_no_half_model_has_a_name_and_the_next_run_finishes(
    where: str, call: int, oci_registry: str, model: Path, judged: Judged
) -> None:
    root = f"{oci_registry}/team/killed-{where.strip('_')}"
    code = f"""
        import os, signal
        from pathlib import Path
        from retain import digest, oci
        from retain.publish.stores import open_store
        real, left = oci.{where}, list(range({call}))
        def die(*given):
            left.pop() or os.kill(os.getpid(), signal.SIGKILL)
            return real(*given)
        oci.{where} = die
        model = Path({str(model)!r})
        open_store("oci://{root}").put(model, digest.model_manifest(model), {{"README.md": b"x"}})
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env).returncode == -signal.SIGKILL
    tags = f"http://{oci_registry}/v2/team/killed-{where.strip('_')}/tags/list"
    named = requests.get(tags, timeout=10).json().get("tags") or []
    assert len(named) == (where == "check")  # read back only once all of it is there
    done = publish(PublishConfig(name="orders", store=f"oci://{root}"), model, judged(model))
    assert done.version == 1
    assert pull("orders", "1", model.parent / "pulled").digest == digest.of_model(model)


def test_an_oci_registry_that_is_away_is_said_soon(
    model: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retain.oci.ATTEMPTS", 2)
    with pytest.raises(EnvironmentFault, match="OCI registry did not answer"):
        publish(PublishConfig(name="orders", store="oci://127.0.0.1:9/team/orders"), model, judged(model))
    assert open_registry("orders").all() == []


def test_an_object_is_written_once(s3: str, tmp_path: Path) -> None:
    from retain import s3 as house

    (tmp_path / "a").write_bytes(b"first")
    place = {"Bucket": "models", "Key": "once/a"}
    house._at_once(house.client(), place, tmp_path / "a")
    (tmp_path / "a").write_bytes(b"second")
    house._at_once(house.client(), place, tmp_path / "a")
    assert uris.fetch("s3://models/once/a", tmp_path / "cache").read_bytes() == b"first"


def test_other_bytes_in_the_bucket_are_found(s3: str, model: Path, judged: Judged) -> None:
    from retain import s3 as house

    done = publish(PublishConfig(name="orders", store="s3://models/rot"), model, judged(model))
    house.write(f"{done.source}/model.safetensors", b"rotten")
    with pytest.raises(IntegrityError, match="other bytes"):
        publish(PublishConfig(name="again", store="s3://models/rot"), model, judged(model))
    assert open_registry("again").all() == []
    with pytest.raises(IntegrityError, match="other files than were registered"):
        pull("orders", "1", model.parent / "pulled")


def test_wrong_keys_no_bucket_and_a_store_that_is_away(
    s3: str, model: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(store: str, kind: type[Exception], told: str) -> None:
        with pytest.raises(kind, match=told) as caught:
            publish(PublishConfig(name="orders", store=store), model, judged(model))
        assert "very-secret" not in str(caught.value)
        assert open_registry("orders").all() == []

    refused("s3://no-such-bucket-here/x", ConfigError, "no such bucket")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused("s3://models/denied", EnvironmentFault, "refuses these credentials")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("retain.s3.ATTEMPTS", 1)
    refused("s3://models/away", EnvironmentFault, "S3")


@pytest.fixture
def shaky(s3_server: str) -> Iterator[tuple[str, list[str]]]:
    """A proxy before the real store that answers every third PUT with 500 and cuts every fifth off."""
    upstream, seen = urllib.parse.urlparse(s3_server), []

    class Proxy(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # which answers "Expect: 100-continue"; a client waits a second for it

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command == "PUT":
                seen.append(self.path)
                if len(seen) % 5 == 0:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if len(seen) % 3 == 0:
                    self.send_response(500)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            link = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=30)
            link.request(self.command, self.path, body, dict(self.headers.items()))
            answer = link.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"transfer-encoding", "content-length", "connection"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            link.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def test_errors_and_resets_in_the_middle_of_an_upload_are_survived(
    s3: str, shaky: tuple[str, list[str]], model: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.retries.standard import ExponentialBackoff

    address, seen = shaky
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda self, context: 0.01)  # else up to 20 s a try
    done = publish(PublishConfig(name="orders", store="s3://models/shaky"), model, judged(model))
    assert len(seen) >= 6
    assert done.created


def test_a_name_cannot_climb_out_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="leaves its folder"):
        s3.inside(tmp_path, "../../etc/passwd")
    with pytest.raises(ConfigError, match="cannot be published"):
        open_store("ftp://somewhere")


def test_weights_that_lay_in_a_common_place_are_published_and_signed_as_they_were_gated(
    model: Path, judged: Judged, key_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    private, public = key_pair
    verdict, gated = judged(model), digest.of_model(model)
    monkeypatch.setenv(weights.VARIABLE, str(tmp_path / "between"))
    weights.send_off(model)
    travelled = Path(shutil.copytree(model, tmp_path / "next-pod"))
    done = publish(PublishConfig(name="orders", signing_key=str(private)), weights.whole(travelled), verdict)
    place = Path(done.source.removeprefix("file://"))
    assert done.digest == digest.of_model(place) == gated
    assert not any(path.is_symlink() for path in place.rglob("*"))
    signing.verify(place, digest.model_manifest(place), public)


def test_keys_revoked_in_the_middle_of_an_upload_leave_no_version_and_new_ones_finish_it(
    s3: str, model: Path, judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retain import s3 as house

    real, verdict, sent = house._at_once, judged(model), list[Path]()

    def revoked(client: Any, place: dict[str, str], file: Path) -> None:
        if len(sent) == 2:
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "revoked")
            client = house.client()
        sent.append(file)
        real(client, place, file)

    monkeypatch.setattr(house, "_at_once", revoked)
    config = PublishConfig(name="orders", store="s3://models/revoked")
    with pytest.raises(EnvironmentFault, match="refuses these credentials"):
        publish(config, model, verdict)
    assert len(sent) == 3
    assert open_registry("orders").all() == []
    monkeypatch.setattr(house, "_at_once", real)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    assert publish(config, model, verdict).version == 1
