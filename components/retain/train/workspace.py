"""A folder through which this process and those that train speak: settings and rows in, metrics and an adapter out.

One process a GPU of this machine (retain.train.launch) or of several nodes (retain.train.trainjob) read it; it lies in
RETAIN_HOME, under a name made of what is trained, so that a killed step finds it again.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retain import artifacts, digest
from retain.errors import ConfigError, DataRefused, EnvironmentFault, ExitCode, IntegrityError, Interrupted, RetainError
from retain.tracking import home, run_id
from retain.train.config import TrainConfig
from retain.train.work import TrainResult

JOB, ENDING = "retain.train-job/1", "retain.train-ending/1"
# Exit codes of a process that trained → the error that ends the step with the same one.
ENDINGS: dict[int, type[RetainError]] = {
    ExitCode.USAGE: ConfigError, ExitCode.INTEGRITY: IntegrityError, ExitCode.DATA_REFUSED: DataRefused, ExitCode.INTERRUPTED: Interrupted,
}  # fmt: skip
Log = Callable[[dict[str, float], int], None]


class Workspace:
    """The folder of one training, with its inputs in it; ``name`` is its identity."""

    def __init__(self, config: TrainConfig, base: Mapping[str, str], mixture: Path) -> None:
        rows = artifacts.read_info(mixture, "retain.mixture/1")["digest"]
        given = {"train": config.as_parameter(), "base": dict(base), "mixture": rows, "run": run_id()}
        self.name = f"retain-train-{digest.of_json(given).removeprefix('sha256:')[:12]}"
        self.folder = home() / "jobs" / self.name
        self._read = 0
        artifacts.check_writable(self.folder)
        if not (self.folder / "job.json").is_file():
            shutil.copytree(mixture, self.folder / "mixture", dirs_exist_ok=True)
            artifacts.write_json(self.folder / "job.json", {"schema": JOB, **given})

    def forget(self) -> None:
        """What an earlier attempt said."""
        for old in ("ending.json", "metrics.jsonl"):
            (self.folder / old).unlink(missing_ok=True)

    def pass_on(self, log: Log) -> None:
        """The metrics that the first process has appended since the last call."""
        file = self.folder / "metrics.jsonl"
        if not file.is_file():
            return
        with file.open("rb") as stream:
            stream.seek(self._read)
            whole, newline, _ = stream.read().rpartition(b"\n")
        for line in whole.splitlines():
            found = json.loads(line)
            log(found["metrics"], found["step"])
        self._read += len(whole) + len(newline)

    def result(self, adapter: Path, failed: str) -> TrainResult:
        """Adapter and facts of a finished training, or the error of the process that spoke first."""
        if not (self.folder / "ending.json").is_file():
            raise EnvironmentFault("the training ended without a word", where=str(self.folder), got=failed or "no ending.json", fix="look at the log above; run again: it goes on from the last checkpoint")  # fmt: skip
        ending = artifacts.read_json(self.folder / "ending.json", schema=ENDING)
        if ending["exit_code"]:
            raise ENDINGS.get(ending["exit_code"], EnvironmentFault)(ending["message"])
        shutil.copytree(self.folder / "adapter", adapter, dirs_exist_ok=True)
        facts = {**ending["result"], "warnings": tuple(ending["result"]["warnings"])}
        shutil.rmtree(self.folder)
        known: dict[str, Any] = {name: float("nan") if value is None else value for name, value in facts.items()}
        return TrainResult(**known)
