"""What the pipeline's face and the command line share: settings and a mixture in, an adapter and its history out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain import weights
from retain.artifacts import read_json, write_json
from retain.config import parse
from retain.resolve.work import base_folder
from retain.steps import numbers, running, say
from retain.tracking import home, stage
from retain.train import launch, trainjob
from retain.train.config import TrainConfig
from retain.train.work import train


def run(
    config: Mapping[str, Any],
    base: Mapping[str, str],
    mixture: str,
    adapter: str,
    history: str,
    metrics: str,
    domain: str = "",
) -> dict[str, float]:
    with running("train"), stage("train", domain=domain) as tracked:
        settings = parse(TrainConfig, config, where="train")
        if nodes := trainjob.asked():
            result = trainjob.train(nodes, settings, base, Path(mixture), Path(adapter), tracked.metrics)
        elif (count := launch.processes(settings)) > 1:
            result = launch.train(count, settings, base, Path(mixture), Path(adapter), tracked.metrics)
        else:
            result = train(settings, Path(mixture), base_folder(base), Path(adapter), home() / "checkpoints", tracked.metrics)  # fmt: skip
        facts = numbers(vars(result))
        for warning in result.warnings:
            say(f"warning: {warning}")
        tracked.metrics({f"final/{name}": value for name, value in facts.items()}, step=result.steps)
        tracked.tags({"adapter_digest": result.adapter_digest, "stopped": result.stopped or "at its last step"})
        write_json(
            Path(history),
            {
                "schema": "retain.history/1",
                "summary": facts,
                "adapter": read_json(Path(adapter) / "retain.json", schema="retain.adapter/1"),
                "losses": _losses(Path(adapter)),
            },
        )
        write_json(Path(metrics), facts)
        weights.send_off(Path(adapter))
        say("  ".join(f"{name} {value:g}" for name, value in facts.items()))
    return facts


def _losses(adapter: Path) -> dict[str, Any]:
    import json

    value: dict[str, Any] = json.loads((adapter / "losses.json").read_text(encoding="utf-8"))
    return value
