"""The verb `route`: several adapters behind one base, measured and written down to be served."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from retain.errors import ConfigError
from retain_pipelines.cli.common import Json, Recipe, Set, emit, quiet

Named = list[str]


def route(
    recipe: Recipe,
    adapter: Annotated[Named, typer.Option(help="DOMAIN=FOLDER written by train (again for each domain).")],
    scores: Annotated[
        Named, typer.Option(help="DOMAIN=FOLDER written by score for base + that adapter (again for each).")
    ],
    base_scores: Annotated[Path, typer.Option(help="Folder written by score for the base.")] = Path("out/base"),
    dataset: Annotated[Path, typer.Option(help="Folder written by validate, with the rows of all domains.")] = Path(
        "out/dataset"
    ),
    out: Annotated[Path, typer.Option(help="Folder that takes the router, its scores and routes.json.")] = Path(
        "out/routed"
    ),
    route_set: Annotated[
        list[str] | None, typer.Option("--route", help="Override one setting of the router, e.g. min_confidence=0.7.")
    ] = None,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Train a router over domains, measure it, and write the scores of the routed system for `retain gate --candidate OUT/scores`."""
    import yaml

    from retain.resolve.recipe import load
    from retain.route.door import run

    settings = {name: yaml.safe_load(text) for name, text in pairs("--route", route_set or []).items()}
    wanted = load(recipe, overrides).score.as_parameter()
    result = quiet(json, run, settings, wanted, str(dataset), pairs("--adapter", adapter), str(base_scores), pairs("--scores", scores), str(out), str(out / "scores"))  # fmt: skip
    if json:
        emit(asdict(result), True)


def pairs(option: str, given: list[str]) -> dict[str, str]:
    """``NAME=VALUE`` texts as a dict; each name once."""
    found: dict[str, str] = {}
    for entry in given:
        name, mark, value = entry.partition("=")
        if not (name and mark and value) or name in found:
            raise ConfigError(f"{option} takes NAME=VALUE, each name once", got=entry)
        found[name] = value
    return found


VERBS: dict[Callable[..., None], str] = {
    route: "retain route domains --adapter north=a/north --adapter south=a/south --scores north=s/north --scores south=s/south",
}
