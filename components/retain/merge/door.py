"""What the pipeline's face and the command line share: settings, a base and adapters in, a proven model out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retain import weights
from retain.config import parse
from retain.merge.config import MergeConfig
from retain.merge.work import merge
from retain.resolve.work import base_folder
from retain.steps import numbers, running, say
from retain.tracking import stage


def run(
    config: Mapping[str, Any], base: Mapping[str, str], adapter: str, model: str, domain: str = ""
) -> dict[str, Any]:
    return run_many(config, base, [(adapter, 1.0)], model, domain)


def run_many(
    config: Mapping[str, Any],
    base: Mapping[str, str],
    adapters: Sequence[tuple[str, float]],
    model: str,
    domain: str = "",
) -> dict[str, Any]:
    """Merge several adapters, each with its weight."""
    with running("merge"), stage("merge", domain=domain) as tracked:
        settings = parse(MergeConfig, config, where="merge")
        result = merge(
            settings,
            base_folder(base),
            [(weights.whole(Path(folder)), weight) for folder, weight in adapters],
            Path(model),
            base_digest=base["digest"],
        )
        say(f"model     {result.digest}")
        logits = f"logits differ from base + adapter by {result.logit_difference:.2g} deviations (the adapter moves them by {result.adapter_effect:.2g})"
        said = logits if result.adapter_effect else "its logits were not compared: these changes cannot be attached to a base"  # fmt: skip
        say(f"proof     {result.changed_tensors} tensors changed, {result.lost_percent:.2f} % of their entries lost to rounding; {said}")  # fmt: skip
        say(f"time      {result.merge_seconds:.1f} s to merge, {result.proof_seconds:.1f} s to prove")
        for note in result.notes:
            say(f"  {note}")
        tracked.metrics(numbers(vars(result)))
        tracked.tags({"model_digest": result.digest})
        weights.send_off(Path(model))
    return {"digest": result.digest, "changed_tensors": result.changed_tensors}
