"""What the pipeline's face and the command line share: settings and rows in, tokens out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retain.config import parse
from retain.resolve.work import base_folder
from retain.steps import running, say
from retain.template.config import TemplateConfig
from retain.template.work import template
from retain.tracking import home, stage


def run(
    config: Mapping[str, Any],
    base: Mapping[str, str],
    dataset: str,
    generated: str,
    rendered: str,
    preview: str,
    domain: str = "",
) -> dict[str, Any]:
    with running("template"), stage("template", domain=domain) as tracked:
        more = Path(generated) if generated and (Path(generated) / "info.json").is_file() else None
        result = template(
            parse(TemplateConfig, config, where="data.template"),
            Path(dataset),
            base_folder(base),
            Path(rendered),
            Path(preview),
            generated=more,
            cache=home() / "tokens",
        )
        say(
            f"{result.rows} rows, {result.tokens:,} tokens, {result.supervised_tokens:,} of them carry loss; {result.cached_rows} rows known from before"
        )
        if result.long_rows:
            say(
                f"  {result.long_rows} rows are longer than max_seq_length (long_rows: {config.get('long_rows', 'drop')})"
            )
        tracked.metrics(
            {"tokens": result.tokens, "supervised_tokens": result.supervised_tokens, "long_rows": result.long_rows}
        )
        tracked.tags({"template_digest": result.template_digest})
        tracked.artifact(Path(preview))
    return {"digest": result.digest, "template_digest": result.template_digest}
