"""The process in which kfp.local runs one pipeline: ``python -m retain_pipelines.local_child FOLDER [CACHE]``."""

import json
import logging
import os
import signal
import sys
from pathlib import Path

from retain.steps import die_with_parent


def main(folder: Path, cache: str) -> None:
    signal.signal(signal.SIGTERM, _end_group)
    die_with_parent()
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    from kfp import components, local

    runner = local.SubprocessRunner(use_venv=False)
    local.init(runner, pipeline_root=str(folder / "artifacts"), enable_caching=bool(cache), cache_root=cache or None)
    pipeline = components.load_component_from_text((folder / "pipeline.json").read_text(encoding="utf-8"))
    pipeline(**json.loads((folder / "arguments.json").read_text(encoding="utf-8")))


def _end_group(number: int, frame: object) -> None:
    """The steps run below shells of kfp.local: end them all, and give them the time to write a checkpoint."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    sys.exit(128 + number)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
