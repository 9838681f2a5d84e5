"""What the pipeline's face and the command line share: settings and dataset entries in, counts out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain.config import parse
from retain.resolve.work import base_folder, source_files
from retain.steps import running, say
from retain.tracking import stage
from retain.validate.config import ValidateConfig
from retain.validate.work import validate


def run(
    config: Mapping[str, Any],
    sources: list[dict[str, Any]],
    base: Mapping[str, str],
    dataset: str,
    rejects: str,
    report: str,
    domain: str = "",
) -> dict[str, Any]:
    with running("validate"), stage("validate", domain=domain) as tracked:
        specs, files = source_files(sources)
        for source in sources:
            tracked.dataset(
                source["name"] or Path(source["path"]).name,
                source["digest"],
                context=source["part"],
                source=source["path"],
            )
        checks = parse(ValidateConfig, config, where="data.checks")
        try:
            result = validate(checks, specs, files, base_folder(base), Path(dataset), Path(rejects), Path(report))
        finally:  # a refused data set is when the page is wanted most
            if Path(report).is_file():
                tracked.artifact(Path(report))
        say(f"kept {result.rows} rows, refused {result.rejected}")
        for name, shape in result.detected.items():
            say(f"  {name}: {shape}")
        for reason, count in sorted(result.reasons.items(), key=lambda item: -item[1]):
            say(f"  refused {count:>4}  {reason}")
        tracked.metrics({"rows": result.rows, "rejected_rows": result.rejected})
    return {"digest": result.digest, "rows": result.rows}
