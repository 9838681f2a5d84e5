"""What the pipeline's face and the command line share: a tuned model in, a smaller candidate with its proof out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain import weights
from retain.compress.config import CompressConfig
from retain.compress.work import compress
from retain.config import parse
from retain.steps import numbers, running, say
from retain.tracking import stage


def run(config: Mapping[str, Any], model: str, compressed: str) -> dict[str, Any]:
    with running("compress"), stage("compress") as tracked:
        result = compress(parse(CompressConfig, config, where="compress"), weights.whole(Path(model)), Path(compressed))
        say(f"model     {result.digest}")
        zeros = f", {result.zeros_percent:.1f} % of the pruned entries are 0" if result.zeros_percent else ""
        say(f"{result.method:<9} {result.before_mib:,.1f} MiB → {result.size_mib:,.1f} MiB{zeros}")
        say(
            f"drift     {result.kl_nats:.2g} nats a token from the original, {result.same_top_percent:.1f} % of the likeliest tokens are the same"
        )
        say("          it is another model: score it and gate it before it is published")
        for note in result.notes:
            say(f"  {note}")
        tracked.metrics(numbers(vars(result)))
        tracked.tags({"model_digest": result.digest})
        weights.send_off(Path(compressed))
    return {
        "digest": result.digest,
        "method": result.method,
        "size_mib": round(result.size_mib, 1),
        "kl_nats": round(result.kl_nats, 4),
    }
