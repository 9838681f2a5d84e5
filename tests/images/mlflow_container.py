"""The MLflow server out of our own image, on loopback."""

import contextlib
import urllib.request
from collections.abc import Iterator
from typing import Any

from ..servers import free_port, until

RESTRICTED = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": "mode=1777"},
}


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
