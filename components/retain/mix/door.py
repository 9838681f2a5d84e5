"""What the pipeline's face and the command line share: settings and tokens in, a mixture out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain.config import parse
from retain.mix.config import MixConfig
from retain.mix.work import mix
from retain.score.config import ScoreConfig
from retain.score.items import gate_items
from retain.steps import running, say
from retain.tracking import stage


def run(
    config: Mapping[str, Any],
    score: Mapping[str, Any],
    rendered: str,
    mixture: str,
    report: str,
    domain: str = "",
) -> dict[str, Any]:
    with running("mix"), stage("mix", domain=domain) as tracked:
        items = gate_items(parse(ScoreConfig, score, where="score"))
        result = mix(parse(MixConfig, config, where="data.replay"), Path(rendered), items, Path(mixture), Path(report))
        say(
            f"{result.rows} rows, {result.tokens:,} tokens; replay {100 * result.replay_share:.2f} % of them ({result.replay_tokens:,})"
        )
        say(f"validation rows: {result.target_validation_rows} target, {result.replay_validation_rows} general")
        say(f"rows dropped because they hold an item of the gate: {result.contaminated_rows}")
        tracked.metrics(
            {
                "tokens": result.tokens,
                "replay_share": result.replay_share,
                "contaminated_rows": result.contaminated_rows,
            }
        )
        tracked.artifact(Path(report))
    return {"digest": result.digest, "rows": result.rows}
