"""What every step does around its work: say what it does, track it, and end with the right exit code.

Identity comes by environment and changes no result: RETAIN_RUN_ID names the pipeline run in MLflow (retain.tracking), RETAIN_RUN_DIR is
where the laptop's wrapper reads how a step ended.
"""

import contextlib
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from retain.artifacts import write_json
from retain.errors import ExitCode, Interrupted, RetainError, refusal_of_machine


def say(text: str) -> None:
    """A line for the person who watches."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def running(step: str) -> Iterator[None]:
    """Run one step: an expected fault is a clear paragraph and an exit code; only a fault of ours is a traceback."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # kfp's executor shows everybody's INFO
    if os.environ.get("RETAIN_RUN_DIR"):
        die_with_parent()
    try:
        yield
        note_ending(step, 0, "")
    except RetainError as error:
        _leave(step, error.exit_code, str(error))
    except KeyboardInterrupt:
        _leave(step, ExitCode.INTERRUPTED, "interrupted; what is finished is kept, start again with --resume")
    except Exception as error:  # noqa: BLE001 the last door: what is not the machine's refusal is ours, and is shown whole
        refusal = refusal_of_machine(error)
        _leave(step, refusal.exit_code, str(refusal)) if refusal else _leave(
            step, ExitCode.CRASH, traceback.format_exc()
        )


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    raise Interrupted("stopped by SIGTERM; what is finished is kept, start again with --resume")


def _leave(step: str, code: ExitCode, message: str) -> None:
    if not os.environ.get("RETAIN_RUN_DIR"):  # there, the wrapper shows it at the end
        sys.stderr.write(f"retain {step}: {message}\n")
    note_ending(step, int(code), message)
    raise SystemExit(int(code))


def die_with_parent() -> None:
    """Linux: get SIGTERM when the parent dies, so that a killed wrapper leaves no training behind."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def note_ending(step: str, code: int, message: str) -> None:
    """Leave for the wrapper how the step ended, where there is one; of a step that ran for several domains, its fault."""
    if folder := os.environ.get("RETAIN_RUN_DIR"):
        path = Path(folder) / "endings" / f"{step}.json"
        if code or not path.is_file():
            write_json(path, {"step": step, "exit_code": code, "message": message})


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The finite numeric entries, rounded to four digits as the run pages show them."""
    plain = {k: float(v) for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: round(v, 4) for k, v in plain.items() if math.isfinite(v)}


def path_of(artifact: Any) -> str:
    """Where an optional input artifact lies; an empty text where the pipeline has none."""
    return str(artifact.path) if artifact is not None else ""
