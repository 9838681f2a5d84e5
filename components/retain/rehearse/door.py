"""What the pipeline's face and the command line share: settings and prompts in, replay rows out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain.artifacts import write_rows
from retain.config import parse
from retain.rehearse.config import RehearseConfig
from retain.resolve.work import base_folder
from retain.steps import running, say
from retain.tracking import Stage, home, stage


def run(
    config: Mapping[str, Any], base: Mapping[str, str], dataset: str, generated: str, domain: str = ""
) -> dict[str, Any]:
    """``config`` has the settings and ``wanted``: whether the mixture asks for rows that the base wrote."""
    with running("rehearse"):
        settings = parse(RehearseConfig, {k: v for k, v in config.items() if k != "wanted"}, where="data.rehearse")
        if not config.get("wanted"):
            say("not wanted: the replay rows come from files")
            return {"digest": write_rows(Path(generated), "retain.dataset/1", [])["digest"], "rows": 0}
        with stage("rehearse", domain=domain) as tracked:
            return _write(tracked, settings, base, dataset, generated)
    raise AssertionError("unreachable: running() leaves on every error")


def _write(
    tracked: Stage, settings: RehearseConfig, base: Mapping[str, str], dataset: str, generated: str
) -> dict[str, Any]:
    from retain.rehearse.work import rehearse

    result = rehearse(settings, base_folder(base), Path(dataset), Path(generated), home() / "rehearsed")
    say(
        f"{result.rows} rows written by the base, {result.answer_tokens:,} tokens; {result.cached_answers} answers known from before"
    )
    for reason, count in result.dropped.items():
        say(f"  dropped {count:>4}  {reason}")
    tracked.metrics({"rows": result.rows, "answer_tokens": result.answer_tokens})
    return {"digest": result.digest, "rows": result.rows}
