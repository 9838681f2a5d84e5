"""The verbs that talk to a Kubeflow Pipelines server: submit, follow, schedule, upload."""

import dataclasses
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from retain.errors import ConfigError, EnvironmentFault, Interrupted
from retain_pipelines.cli.common import Json, Recipe, Set, emit, for_ci

Host = Annotated[
    str,
    typer.Option(
        help="Address of the server, e.g. https://kubeflow.example.com/pipeline. Secrets are not taken from flags: set RETAIN_KFP_TOKEN, _TOKEN_FILE, _COOKIE, _HEADER, _CA, or _USERNAME and _PASSWORD.",
        envvar="RETAIN_KFP_HOST",
    ),
]
Namespace = Annotated[
    str, typer.Option(help="Namespace of the user; empty on a server for one user.", envvar="RETAIN_KFP_NAMESPACE")
]
Experiment = Annotated[str, typer.Option(help="Experiment that takes the runs; made where it is missing.")]
ProfileName = Annotated[
    str, typer.Option("--profile", help="How pods run: default, spot, airgapped, or the path of one.")
]
Registry = Annotated[str, typer.Option(help="Registry of the two images; empty: the profile's.")]
Digests = Annotated[
    list[str] | None, typer.Option("--image-digest", help="cpu=sha256:… or gpu=sha256:…; empty: the profile's.")
]
Pipeline = Annotated[
    str,
    typer.Option(
        help="finetune-without-forgetting, retrain, domain-adapters, domain-routing or regression-gate; README of pipelines/"
    ),
]
Candidate = Annotated[str, typer.Option(help="Model that regression-gate judges; the recipe's base is the measure.")]
Params = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        help="A parameter of the pipeline that no recipe has, e.g. merge_weights='north=0.7, south=0.3' (again for more).",
    ),
]
Poll = Annotated[float, typer.Option(help="Seconds between two looks at a run.", min=0.05)]
Artifacts = Annotated[
    str, typer.Option(help="Pipeline root (s3://bucket/prefix) to fetch verdict.json from; empty: not fetched.")
]
Comment = Annotated[
    str, typer.Option(help="Write the verdict's table as Markdown, for a merge request; needs --wait and --artifacts.")
]
Junit = Annotated[str, typer.Option(help="Write a JUnit XML file for a CI system; the same.")]
FINETUNE = "finetune-without-forgetting"


def _server(host: str, namespace: str) -> Any:
    from retain_pipelines.auth import from_environment
    from retain_pipelines.server import Server

    return Server(host, namespace, from_environment(host))


def _package(
    pipeline: str, recipe: str, overrides: list[str] | None, params: list[str] | None, candidate: str, profile: str, registry: str,
    digests: list[str] | None, *, fresh: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """(package, profile): everything that can be wrong on this side is found before the server is asked."""
    from retain.resolve.recipe import load
    from retain_pipelines import arguments, cluster, pods
    from retain_pipelines import profile as profiles

    settings, loaded = profiles.load(profile), load(recipe, overrides)
    every = arguments.complete(pipeline, loaded, params, candidate)
    taken = pods.images_of(settings, registry, digests)
    return cluster.pack(pipeline, loaded, settings, taken, every, fresh=fresh), settings


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def submit(
    recipe: Recipe,
    host: Host,
    namespace: Namespace = "",
    experiment: Experiment = "retain",
    profile: ProfileName = "default",
    registry: Registry = "",
    image_digest: Digests = None,
    pipeline: Pipeline = FINETUNE,
    candidate: Candidate = "",
    param: Params = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Take nothing from KFP's cache of earlier runs.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run to its end; the exit code is then the gate's.")
    ] = False,
    artifacts: Artifacts = "",
    comment: Comment = "",
    junit: Junit = "",
    poll: Poll = 10.0,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Run a recipe on a cluster; with --wait, end with the gate's exit code (8 where the run ends without a verdict)."""
    from retain_pipelines import cluster

    package, settings = _package(
        pipeline, recipe, overrides, param, candidate, profile, registry, image_digest, fresh=fresh
    )
    root = artifacts or settings.pipeline_root
    files = _files(comment, junit, root if wait else "")
    server = _server(host, namespace)
    run_id = cluster.submit(server, package, settings, experiment=experiment, name=Path(recipe).stem)
    _say(cluster.link(server, run_id))
    if not wait:
        emit({"run_id": run_id, "url": cluster.link(server, run_id)}, json, run_id)
        return
    _follow(server, run_id, pipeline, root, poll, json, files)


def follow(
    run_id: Annotated[str, typer.Argument(help="Id of a run, as submit printed it.")],
    host: Host,
    namespace: Namespace = "",
    pipeline: Pipeline = FINETUNE,
    artifacts: Artifacts = "",
    comment: Comment = "",
    junit: Junit = "",
    poll: Poll = 10.0,
    json: Json = False,
) -> None:
    """Follow a run that was started before; ends with the gate's exit code."""
    _follow(_server(host, namespace), run_id, pipeline, artifacts, poll, json, _files(comment, junit, artifacts))


def _files(comment: str, junit: str, root: str) -> dict[str, str]:
    """What a CI system wants written; a verdict's table needs the place where verdict.json lies."""
    if (comment or junit) and not root:
        raise ConfigError("--comment and --junit are written from verdict.json", expected="--wait, and --artifacts s3://… or pipeline_root in the profile")  # fmt: skip
    return {"comment": comment, "junit": junit}


def _follow(
    server: Any, run_id: str, pipeline: str, artifacts: str, poll: float, json: bool, files: dict[str, str]
) -> None:
    from retain_pipelines import cluster

    try:
        ended = cluster.follow(server, run_id, show=_say, poll=poll)
    except EnvironmentFault:
        _say(f"`retain follow {run_id}` looks again; nothing was done to the run")
        raise
    except KeyboardInterrupt:
        raise Interrupted("no longer followed; the run goes on", where=cluster.link(server, run_id), fix=f"`retain follow {run_id}` looks on") from None  # fmt: skip
    if artifacts and ended.ending:
        with tempfile.TemporaryDirectory() as folder:
            ended = dataclasses.replace(ended, verdict=cluster.fetch_verdict(artifacts, pipeline, ended, Path(folder)))
    if ended.verdict:
        for_ci(ended.verdict, **files, annotations=False)
    reasons = [f"{r['code']} {r.get('benchmark', '')}".strip() for r in ended.verdict.get("reasons", [])]
    emit(ended.as_json(), json, "\n".join([f"{ended.message}  {ended.url}", *reasons]))
    raise typer.Exit(ended.exit_code)


def upload(
    host: Host,
    namespace: Namespace = "",
    profile: ProfileName = "default",
    registry: Registry = "",
    image_digest: Digests = None,
    pipeline: Annotated[str, typer.Option(help="One pipeline; empty: all.")] = "",
    recipe: Annotated[
        str, typer.Option(help="Recipe that says what pods are needed (a GPU for rehearse).")
    ] = "quickstart",
    json: Json = False,
) -> None:
    """Keep the pipelines on the server, as new versions where their content is new."""
    from retain.resolve.recipe import load
    from retain_pipelines import cluster, compiling, pods, schedules
    from retain_pipelines import profile as profiles

    settings, loaded = profiles.load(profile), load(recipe)
    taken = pods.images_of(settings, registry, image_digest)
    names = [compiling.check_name(pipeline)] if pipeline else list(compiling.PIPELINES)
    packages = [cluster.pack_for_form(name, loaded, settings, taken) for name in names]
    server = _server(host, namespace)
    done = [schedules.upload(server, package) for package in packages]
    emit(done, json, "\n".join(f"{row['pipeline']}  {row['version']}  {'new' if row['new'] else 'as it was'}" for row in done))  # fmt: skip


schedule = typer.Typer(no_args_is_help=True, help="Recurring runs: create, list, pause, resume, delete.", rich_markup_mode=None)  # fmt: skip


@schedule.command(epilog="Example: retain schedule create my-recipe.yaml --cron '0 3 * * 1' --host https://kubeflow.example.com/pipeline")  # fmt: skip
def create(
    recipe: Recipe,
    host: Host,
    cron: Annotated[str, typer.Option(help="5 fields, or 6 with seconds in front; the server's clock counts.")],
    name: Annotated[str, typer.Option(help="Name of the schedule; empty: the recipe's.")] = "",
    namespace: Namespace = "",
    experiment: Experiment = "retain",
    profile: ProfileName = "default",
    registry: Registry = "",
    image_digest: Digests = None,
    pipeline: Pipeline = FINETUNE,
    candidate: Candidate = "",
    param: Params = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the place of the schedule of the same name, if there is one.")
    ] = False,
    overrides: Set = None,
    json: Json = False,
) -> None:
    """Run a recipe again and again: one run at a time, nothing made up for missed times, every argument in full."""
    from retain_pipelines import schedules

    package, settings = _package(pipeline, recipe, overrides, param, candidate, profile, registry, image_digest)
    every = schedules.cron(cron)
    made = schedules.create(_server(host, namespace), package, settings, name=name or Path(recipe).stem, when=every, experiment=experiment, replace=replace)  # fmt: skip
    emit(made, json, f"{made['name']}  {made['cron']}  {made['id']}")


@schedule.command("list")
def list_(host: Host, namespace: Namespace = "", json: Json = False) -> None:
    """All schedules of the namespace."""
    from retain_pipelines import schedules

    rows = schedules.listed(_server(host, namespace))
    emit(rows, json, "\n".join(f"{r['name']}  {r['cron']}  {r['status'].lower()}" for r in rows) or "no schedule")


Named = Annotated[str, typer.Argument(help="Name of the schedule.")]


@schedule.command()
def pause(name: Named, host: Host, namespace: Namespace = "") -> None:
    """Start no further runs until it is resumed."""
    from retain_pipelines import schedules

    schedules.switch(_server(host, namespace), name, on=False)


@schedule.command()
def resume(name: Named, host: Host, namespace: Namespace = "") -> None:
    """Let a paused schedule go on."""
    from retain_pipelines import schedules

    schedules.switch(_server(host, namespace), name, on=True)


@schedule.command()
def delete(name: Named, host: Host, namespace: Namespace = "") -> None:
    """Remove a schedule; its past runs stay."""
    from retain_pipelines import schedules

    schedules.delete(_server(host, namespace), name)


VERBS: dict[Callable[..., None], str] = {
    submit: "retain submit quickstart --host https://kubeflow.example.com/pipeline --namespace team --wait",
    follow: "retain follow 3f0c… --host https://kubeflow.example.com/pipeline",
    upload: "retain upload --host https://kubeflow.example.com/pipeline --namespace team",
}
