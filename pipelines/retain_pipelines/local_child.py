"""The process in which kfp.local runs one pipeline: ``python -m retain_pipelines.local_child FOLDER CACHE CONTAINERS``."""

import functools
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from retain.steps import die_with_parent
from retain_pipelines import containers


def main(folder: Path, cache: str, settings: dict[str, Any]) -> None:
    """settings: of retain_pipelines.containers; empty: each step is a process here. An empty ``cache`` keeps nothing."""
    signal.signal(signal.SIGTERM, functools.partial(_end, folder.name if settings else ""))
    die_with_parent()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    from kfp import components, local

    if settings:
        containers.stop(folder.name)  # what a wrapper left that was killed with all its children
    runner = containers.runner(settings) if settings else local.SubprocessRunner(use_venv=False)
    local.init(runner, pipeline_root=str(folder / "artifacts"), enable_caching=bool(cache), cache_root=cache or None)
    pipeline = components.load_component_from_text((folder / "pipeline.json").read_text(encoding="utf-8"))
    pipeline(**json.loads((folder / "arguments.json").read_text(encoding="utf-8")))


def _end(in_containers: str, number: int, frame: object) -> None:
    """The steps run below shells, of kfp.local or of a container: end them all, with the time to write a checkpoint."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    if in_containers:
        containers.stop(in_containers)
    sys.exit(128 + number)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]))
