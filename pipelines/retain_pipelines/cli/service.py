"""The verbs that keep a model in service: is it still good, and train it again."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from retain_pipelines.cli.common import Json, Out, Recipe, Set, emit, flags, quiet

WindowDays = Annotated[int, typer.Option(help="Days of data before --window-end; {day} in an address stands for each.")]
WindowEnd = Annotated[str, typer.Option(help="The day after the window's last one, YYYY-MM-DD, or today (UTC).")]
Start = Annotated[str, typer.Option(help="What the training starts from: base or champion.")]
Champion = Annotated[str, typer.Option(help="Alias of the registered model in service.")]


def retrain(
    recipe: Recipe,
    window_days: WindowDays = 0,
    window_end: WindowEnd = "today",
    start: Start = "base",
    champion: Champion = "champion",
    overrides: Set = None,
    runs: Annotated[Path, typer.Option(help="Folder that takes the runs.")] = Path("runs"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the last retraining of this recipe.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Take nothing from earlier runs.")] = False,
    json: Json = False,
) -> None:
    """Train again on fresh rows; the candidate must pass against the model in service and against the original base."""
    from retain.resolve.recipe import load
    from retain_pipelines import retrain as pipeline
    from retain_pipelines import runs as local_runs
    from retain_pipelines.summary import summary

    loaded, stream = load(recipe, overrides), sys.stderr if json else sys.stdout
    changes = {"base_champion": champion, "base_start": start, "data_window_days": window_days, "data_window_end": window_end}  # fmt: skip

    def show(line: str) -> None:
        stream.write(line if line.endswith("\n") else line + "\n")
        stream.flush()

    outcome = local_runs.run(
        loaded, recipe, runs, resume=resume, fresh=fresh, show=show, pipeline=pipeline.NAME, arguments=pipeline.arguments(loaded, changes),
    )  # fmt: skip
    emit(outcome.as_json(), json, summary(outcome))
    raise typer.Exit(outcome.exit_code)


def drift(
    name: Annotated[str, typer.Argument(help="Registered model.")],
    recipe: Annotated[
        str, typer.Option(help="The recipe it was published with: how rows are read, and the target's metric.")
    ],
    rows: Annotated[str, typer.Option(help="File or address of fresh labelled rows.")],
    champion: Champion = "champion",
    overrides: Set = None,
    assume: Annotated[
        list[str] | None,
        typer.Option("--assume", help="A setting of the look itself, e.g. margin_points=3 (again for more)."),
    ] = None,
    out: Out = Path("out/drift"),
    json: Json = False,
) -> None:
    """Does the served model still do on fresh rows what it did at its promotion? 0: yes; 3: train again; 4: too few rows to tell."""
    from retain.drift.door import run
    from retain.resolve.recipe import load

    found = quiet(json, run, flags(assume, ""), load(recipe, overrides), name, champion, rows, str(out))
    if json:
        emit(found, True)
    raise typer.Exit(found["exit_code"])


def parity(
    model: Annotated[str, typer.Option(help="The model that is served: folder or URI, e.g. mlflow://NAME@champion.")],
    endpoint: Annotated[str, typer.Option(help="Address of the server's OpenAI-compatible API, with /v1.")],
    served_as: Annotated[str, typer.Option(help="The model's name at that address.")],
    chats: Annotated[str, typer.Option(help="JSON lines with chats of your own (messages); empty: ours alone.")] = "",
    assume: Annotated[
        list[str] | None,
        typer.Option("--assume", help="A setting of the look, e.g. template_kwargs.enable_thinking=false (again)."),
    ] = None,
    json: Json = False,
) -> None:
    """Does a server read chats with the template the model was gated with? 0: yes; 6: no, with the chat that differs."""
    from retain.parity.door import run

    settings = {**flags(assume, ""), "endpoint": endpoint, "model": served_as}
    found = quiet(json, run, settings, model, chats)
    if json:
        emit(found, True)


VERBS: dict[Callable[..., None], str] = {
    retrain: "retain retrain my-recipe.yaml --window-days 30 --start base",
    drift: "retain drift ticket-triage --recipe my-recipe.yaml --rows s3://bucket/labelled/last-week.jsonl",
    parity: "retain parity --model mlflow://ticket-triage@champion --endpoint http://127.0.0.1:8000/v1 --served-as ticket-triage",
}
