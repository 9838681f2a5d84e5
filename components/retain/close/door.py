"""What the pipeline's exit handler runs: the state of its tasks in, one line out; green unless the fault is ours."""

from typing import Any

from retain.close.work import close
from retain.steps import running, say


def run(pipeline: str, status: Any) -> None:
    """status: kfp's PipelineTaskFinalStatus (state, error_message)."""
    with running("close"):
        ended, told = close(pipeline, str(status.state), str(status.error_message or ""))
        say(ended.text())
        if told != "none":
            say(f"webhook {told}")
