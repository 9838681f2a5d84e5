"""What torchrun starts, once a GPU: the same training as in one process, over a workspace that all processes see."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from retain import artifacts
from retain.config import parse
from retain.errors import RetainError
from retain.resolve.work import base_folder
from retain.steps import die_with_parent, numbers
from retain.tracking import home
from retain.train.config import TrainConfig
from retain.train.work import train
from retain.train.workspace import ENDING, JOB


def run(folder: Path) -> int:
    """Train as ``folder``/job.json says → exit code. The first process, or one that fails, leaves ending.json."""
    job = artifacts.read_json(folder / "job.json", schema=JOB)
    try:
        config = parse(TrainConfig, job["train"], where="train")
        base = base_folder(job["base"])
        result = train(config, folder / "mixture", base, folder / "adapter", home() / "checkpoints", _Lines(folder))
    except RetainError as error:
        _end(folder, int(error.exit_code), str(error), {})
        return int(error.exit_code)
    if os.environ.get("RANK", "0") == "0":
        facts = asdict(result)
        finite = numbers(facts)
        _end(folder, 0, "", {name: value if not isinstance(value, float) or name in finite else None for name, value in facts.items()})  # fmt: skip
    return 0


class _Lines:
    """Metrics as lines that the step's pod passes on."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "metrics.jsonl"

    def __call__(self, metrics: dict[str, float], step: int) -> None:
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "metrics": metrics}) + "\n")


def _end(folder: Path, code: int, message: str, result: dict[str, object]) -> None:
    """The first failure stays: others that fail because of it say less."""
    if code == 0 or not (folder / "ending.json").exists():
        artifacts.write_json(folder / "ending.json", {"schema": ENDING, "exit_code": code, "message": message, "result": result})  # fmt: skip


if __name__ == "__main__":
    die_with_parent()  # torchrun
    sys.exit(run(Path(sys.argv[1])))
