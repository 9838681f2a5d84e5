"""What the pipeline's face and the command line share: paths in, nothing out, an exit code."""

from pathlib import Path

from retain.artifacts import read_json
from retain.steps import running
from retain.stop import work


def run(verdict: str) -> None:
    code = read_json(Path(verdict) / "verdict.json", schema="retain.verdict/1")["exit_code"]
    with running(work.name(code)):
        work.stop(Path(verdict))
