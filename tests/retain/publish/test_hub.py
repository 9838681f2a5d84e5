"""The hub's own client against a small server with the hub's HTTP routes: commits, listings, files by commit.

The server keeps files as the hub keeps small ones (inside the commit); the hub's way for large ones is its client's affair
and is not tried here.
"""

import base64
import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from retain import digest
from retain.errors import ConfigError, EnvironmentFault
from retain.publish.config import PublishConfig
from retain.publish.stores import open_store
from retain.publish.versions import open_registry
from retain.publish.work import publish

Judged = Callable[..., Path]
TOKEN = "hf_hunter2write"
Commit = dict[str, bytes]


class Hub(http.server.BaseHTTPRequestHandler):
    """Repositories as lists of commits; who writes needs the token."""

    repositories: dict[str, list[tuple[str, Commit]]]
    private: set[str]

    def _answer(self, body: object = b"", status: int = 200, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _commit(self, repository: str, revision: str) -> tuple[str, Commit]:
        found = self.repositories.get(repository) or [("0" * 40, {})]
        return next((c for c in found if c[0] == revision), found[-1])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "no"}, 401)
        path = urlparse(self.path).path
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization')}/{asked['name']}"
            if asked.get("private") or asked.get("visibility") == "private":
                self.private.add(name)
            self.repositories.setdefault(name, [])
            return self._answer({"url": f"http://{self.headers['Host']}/{name}"})
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        repository, what = "/".join(path.split("/")[3:5]), path.split("/")[5]
        if what == "preupload":
            return self._answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]})  # fmt: skip
        files = dict(self._commit(repository, "")[1])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        oid = hashlib.sha1(body).hexdigest()
        self.repositories[repository].append((oid, files))
        return self._answer({"commitUrl": f"http://{self.headers['Host']}/{repository}/commit/{oid}", "commitOid": oid})  # fmt: skip

    def do_GET(self) -> None:
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            repository, what, revision = "/".join(parts[2:4]), *(parts[4:] or ("info", "main"))
            oid, files = self._commit(repository, revision)
            if what == "tree":
                return self._answer([{"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for p, d in files.items()])  # fmt: skip
            return self._answer({"id": repository, "sha": oid, "siblings": [{"rfilename": p} for p in files]})
        oid, files = self._commit("/".join(parts[:2]), parts[3])
        data = files["/".join(parts[4:])]
        return self._answer(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=oid)

    do_HEAD = do_GET

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    kind = type("Fresh", (Hub,), {"repositories": {}, "private": set()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", kind
    server.shutdown()
    server.server_close()


def online(code: str, address: str, token: str) -> "subprocess.CompletedProcess[str]":
    """The hub's client reads its settings when it is imported: a process of its own."""
    more = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": address, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True)


def test_a_model_is_one_commit_and_comes_back_by_it(
    hub: tuple[str, type[Hub]], model: Path, judged: Judged, key_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    address, server = hub
    server.repositories["team/orders"] = [("1" * 40, {"old.safetensors": b"of an earlier model", ".gitattributes": b"*"})]  # fmt: skip
    code = f"""
        from pathlib import Path
        from retain.publish.config import PublishConfig
        from retain.publish.registry import pull
        from retain.publish.work import publish
        config = PublishConfig(name="orders", store="hf://team/orders", signing_key={str(key_pair[0])!r})
        print(publish(config, Path({str(model)!r}), Path({str(judged(model))!r})).source)
        print(pull("orders", "candidate", Path({str(tmp_path / "pulled")!r}), public_key=Path({str(key_pair[1])!r})).signature)
    """
    done = online(code, address, TOKEN)
    assert done.returncode == 0, done.stderr[-2000:]
    oid, files = server.repositories["team/orders"][-1]
    assert done.stdout.split() == [f"hf://team/orders@{oid}", "verified"]
    assert digest.of_model(tmp_path / "pulled") == digest.of_model(model)
    assert "old.safetensors" not in files
    assert {"README.md", "model.sig", "lineage.json", "model.safetensors", ".gitattributes"} <= set(files)
    assert server.private == {"team/orders"}
    refused = online(code, address, "hf_hunter2other")
    assert refused.returncode == 1
    assert "the hub did not take this model" in refused.stderr
    assert "hunter2" not in done.stdout + done.stderr + refused.stdout + refused.stderr
    assert len(server.repositories["team/orders"]) == 2


def test_killed_before_the_commit_the_hub_shows_the_model_of_before(hub: tuple[str, type[Hub]], model: Path) -> None:
    address, server = hub
    before = ("1" * 40, {"model.safetensors": b"of an earlier model"})
    server.repositories["team/orders"] = [before]
    code = f"""
        import os, signal
        from pathlib import Path
        from huggingface_hub import HfApi
        from retain import digest
        from retain.publish.stores import open_store
        whole = HfApi.create_commit
        for die in (False, True):
            HfApi.create_commit = (lambda *a, **m: os.kill(os.getpid(), signal.SIGKILL)) if die else whole
            model = Path({str(model)!r})
            open_store("hf://team/" + ("orders" if die else "other")).put(model, digest.model_manifest(model), {{}})
    """
    assert online(code, address, TOKEN).returncode == -signal.SIGKILL
    assert server.repositories["team/orders"] == [before]
    assert set(server.repositories["team/other"][-1][1]) == set(digest.model_manifest(model))


def test_a_hub_that_is_switched_off_or_no_repository(model: Path, judged: Judged) -> None:
    with pytest.raises(EnvironmentFault, match="HF_HUB_OFFLINE"):
        publish(PublishConfig(name="orders", store="hf://team/orders"), model, judged(model))
    assert open_registry("orders").all() == []
    with pytest.raises(ConfigError, match="hf://org/name"):
        open_store("hf://orders").put(model, {}, {})


def test_a_published_folder_has_a_hubs_layout(model: Path, judged: Judged) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = publish(PublishConfig(name="orders", licence="apache-2.0"), model, judged(model))
    place = done.source.removeprefix("file://")
    loaded = AutoModelForCausalLM.from_pretrained(place)
    ids = AutoTokenizer.from_pretrained(place)("where is a parcel", return_tensors="pt")["input_ids"]
    assert loaded(ids).logits.shape[1] == ids.shape[1]
    card = (Path(place) / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: transformers\n")
