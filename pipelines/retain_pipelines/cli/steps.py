"""Each step as a verb: the same door that the pipeline's face opens, on folders of this machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from retain_pipelines.cli.common import Json, Out, Recipe, Set, emit, quiet


def _stages(recipe: str, overrides: list[str] | None) -> dict[str, Any]:
    """The settings of every step and the inputs by content, as the first task hands them on."""
    from retain.resolve.door import outputs
    from retain.resolve.recipe import load
    from retain.resolve.work import resolve

    names = (
        "base",
        "sources",
        "checks",
        "template",
        "rehearse",
        "mix",
        "train",
        "merge",
        "score",
        "gate",
        "repair",
        "compress",
        "publish",
    )
    return dict(zip(names, outputs(resolve(load(recipe, overrides), alone=True)), strict=True))


def _run(json: bool, door: Any, *arguments: Any, **named: Any) -> None:

    result = quiet(json, door, *arguments, **named)
    if json:
        emit(result, True)


def validate(recipe: Recipe, out: Out = Path("out"), overrides: Set = None, json: Json = False) -> None:
    """Check every row; refused ones are kept with their reasons (out/dataset, out/rejects, out/validate.html)."""
    from retain.validate.door import run

    s = _stages(recipe, overrides)
    _run(
        json,
        run,
        s["checks"],
        s["sources"],
        s["base"],
        str(out / "dataset"),
        str(out / "rejects"),
        str(out / "validate.html"),
    )


def template(
    recipe: Recipe,
    dataset: Annotated[Path, typer.Option(help="Folder written by validate.")] = Path("out/dataset"),
    generated: Annotated[str, typer.Option(help="Folder written by rehearse; empty: none.")] = "",
    out: Out = Path("out"),
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Render rows with the model's chat template; only answers carry loss (out/rendered, out/template.html)."""
    from retain.template.door import run

    s = _stages(recipe, overrides)
    _run(
        json, run, s["template"], s["base"], str(dataset), generated, str(out / "rendered"), str(out / "template.html")
    )


def rehearse(
    recipe: Recipe,
    dataset: Annotated[Path, typer.Option(help="Folder written by validate.")] = Path("out/dataset"),
    out: Out = Path("out"),
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Let the base model answer general prompts as replay rows (out/generated)."""
    from retain.rehearse.door import run

    s = _stages(recipe, overrides)
    _run(json, run, {**s["rehearse"], "wanted": True}, s["base"], str(dataset), str(out / "generated"))


def mix(
    recipe: Recipe,
    rendered: Annotated[Path, typer.Option(help="Folder written by template.")] = Path("out/rendered"),
    out: Out = Path("out"),
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Mix in general rows at an exact share of tokens, decontaminated (out/mixture, out/mix.html)."""
    from retain.mix.door import run

    s = _stages(recipe, overrides)
    _run(json, run, s["mix"], s["score"], str(rendered), str(out / "mixture"), str(out / "mix.html"))


def train(
    recipe: Recipe,
    mixture: Annotated[Path, typer.Option(help="Folder written by mix.")] = Path("out/mixture"),
    out: Out = Path("out"),
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Tune the base on a mixture; goes on from the last whole checkpoint (out/adapter, out/history.json)."""
    from retain.train.door import run

    s = _stages(recipe, overrides)
    _run(
        json,
        run,
        s["train"],
        s["base"],
        str(mixture),
        str(out / "adapter"),
        str(out / "history.json"),
        str(out / "train-metrics.json"),
    )


def publish(
    recipe: Recipe,
    model: Annotated[Path, typer.Option(help="Folder written by merge.")] = Path("out/model"),
    verdict: Annotated[Path, typer.Option(help="Folder written by gate.")] = Path("out/verdict"),
    out: Out = Path("out"),
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Register exactly the model that was gated (out/published.json)."""
    from retain.publish.door import run
    from retain.resolve.door import write_recipe
    from retain.resolve.recipe import load
    from retain.resolve.work import resolve

    resolved = resolve(load(recipe, overrides))
    write_recipe(resolved, out / "recipe.json")
    _run(
        json,
        run,
        resolved.recipe.publish.as_parameter(),
        str(model),
        str(verdict),
        str(out / "recipe.json"),
        str(out / "published.json"),
    )


VERBS: dict[Callable[..., None], str] = {
    validate: "retain validate quickstart --out out",
    template: "retain template quickstart",
    rehearse: "retain rehearse quickstart",
    mix: "retain mix quickstart",
    train: "retain train quickstart --set train.max_steps=20",
    publish: "retain publish quickstart",
}
