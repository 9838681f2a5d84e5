"""What the pipeline's face and the command line share: a gated model in, a registered version out."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retain import weights
from retain.artifacts import read_json, write_json
from retain.close.summary import tell_published
from retain.config import parse
from retain.publish.config import PublishConfig
from retain.publish.work import publish
from retain.steps import running, say
from retain.tracking import stage


def run(
    config: Mapping[str, Any], model: str, verdict: str, recipe: str, published: str, approved_by: str = ""
) -> dict[str, Any]:
    """approved_by: the person who said yes, where the verdict waits for one."""
    with running("publish"), stage("publish") as tracked:
        settings = parse(PublishConfig, config, where="publish")
        result = publish(
            settings,
            weights.whole(Path(model)),
            Path(verdict),
            recipe=_with_digests(Path(recipe)),
            approved_by=approved_by,
        )
        facts = asdict(result)
        write_json(Path(published), facts)
        say(f"{result.name} version {result.version}  {result.digest}" if result.version else "nothing was registered")
        for note in result.notes:
            say(f"  {note}")
        tracked.tags({"model_digest": result.digest, "version": str(result.version)})
        if result.version:
            tell_published(result.name, str(result.version))
    return {"name": result.name, "version": result.version, "digest": result.digest}


def _with_digests(path: Path) -> dict[str, Any]:
    """The resolved recipe with its own digest and those of its data files, as card and lineage state them."""
    value = read_json(path, schema="retain.recipe/1")
    recipe: dict[str, Any] = value["recipe"]
    return {**recipe, "digest": value["digest"], "data": {**recipe["data"], "datasets": value["sources"]}}
