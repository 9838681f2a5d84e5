"""The command line: the same work as the pipeline's steps, the same verdicts, the same exit codes."""

import shlex
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retain.errors import ExitCode, RetainError, UsageError, refusal_of_machine
from retain_pipelines.cli import cluster, governance, models, plan, registry, route, service, steps
from retain_pipelines.cli.common import Json, Set, emit

app = typer.Typer(
    name="retain", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="Fine-tune language models without letting them forget, and prove it.\n\nExit codes: 0 pass, 1 crash, 2 usage or configuration, 3 regressed, 4 inconclusive, 5 awaiting approval, 6 integrity, 7 data refused, 8 environment or service, 130 interrupted.",
)  # fmt: skip


class Runner(StrEnum):
    """Where the steps of a local run live."""

    process = "process"
    docker = "docker"


@app.command(epilog="Example: retain run quickstart --set train.num_train_epochs=1")
def run(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe by its name (quickstart, naive) or the path of one.")
    ] = "quickstart",
    overrides: Set = None,
    runs: Annotated[Path, typer.Option(help="Folder that takes the runs.")] = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last run of this recipe; finished steps are not repeated.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Take nothing from earlier runs.")] = False,
    runner: Annotated[
        Runner, typer.Option(help="process: every step in this environment; docker: in the images of `make images`.")
    ] = Runner.process,
    pipeline: Annotated[
        str,
        typer.Option(
            help="finetune-without-forgetting, or another one that trains: retrain, domain-adapters, domain-routing."
        ),
    ] = "finetune-without-forgetting",
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param", help="A parameter of the pipeline that no recipe has, e.g. merge_weights='a=0.7, b=0.3'."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run the whole pipeline on this machine and end with the gate's exit code."""
    from retain.resolve.recipe import load
    from retain_pipelines import arguments
    from retain_pipelines import runs as local_runs
    from retain_pipelines.summary import summary

    stream = sys.stderr if json else sys.stdout

    def show(line: str) -> None:
        stream.write(line if line.endswith("\n") else line + "\n")
        stream.flush()

    loaded = load(recipe, overrides)
    every = arguments.complete(pipeline, loaded, param) if pipeline != "finetune-without-forgetting" or param else None
    outcome = local_runs.run(
        loaded,
        recipe,
        runs,
        resume=resume,
        fresh=fresh,
        show=show,
        in_containers=runner is Runner.docker,
        pipeline=pipeline,
        arguments=every,
    )
    emit(outcome.as_json(), json, summary(outcome))
    raise typer.Exit(outcome.exit_code)


@app.command(
    epilog="Example: retain compile --profile spot --registry registry.example.com/ml --image-digest cpu=sha256:… --image-digest gpu=sha256:… --out build"
)
def compile(
    out: Annotated[
        str, typer.Option(help="Folder that takes the YAML files; empty: pipelines/compiled, or compiled-PROFILE.")
    ] = "",
    profile: Annotated[
        str,
        typer.Option(help="How pods run: default, spot, airgapped, or the path of one; empty: no cluster's settings."),
    ] = "",
    registry: Annotated[str, typer.Option(help="Registry of the two images; empty: the profile's.")] = "",
    image_digest: Annotated[
        list[str] | None, typer.Option("--image-digest", help="cpu=sha256:… or gpu=sha256:…; empty: the profile's.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Recipe that says which pods are needed.")] = "quickstart",
    json: Json = False,
) -> None:
    """Write every pipeline as KFP v2 IR YAML; with --profile, as that cluster gets it."""
    from retain.resolve.recipe import load
    from retain_pipelines import compiling, pods
    from retain_pipelines import profile as profiles

    if profile:
        settings = profiles.load(profile)
        taken = pods.images_of(settings, registry, image_digest)
        paths = compiling.compile_for(Path(out or f"compiled-{Path(profile).stem}"), settings, taken, load(recipe))
    elif registry or image_digest:
        raise UsageError("--registry and --image-digest need --profile", fix="name a profile: default, spot, airgapped")
    else:
        paths = compiling.compile_all(Path(out or "pipelines/compiled"))
    written = [str(path) for path in paths]
    emit(written, json, "\n".join(written))


@app.command(epilog="Example: retain init quickstart > my-recipe.yaml")
def init(recipe: Annotated[str, typer.Argument(help="The shipped recipe to start from.")] = "quickstart") -> None:
    """Print a shipped recipe, to be changed into one of your own."""
    from retain.resolve.recipe import find

    sys.stdout.write(find(recipe).read_text(encoding="utf-8"))


@app.command(epilog="Example: retain doctor --json")
def doctor(json: Json = False) -> None:
    """Say what is missing on this machine, and how to get it."""
    from retain_pipelines.doctor import examine, report

    findings = examine()
    emit([finding.as_json() for finding in findings], json, report(findings))
    raise typer.Exit(
        ExitCode.OK if all(finding.ok or finding.optional for finding in findings) else ExitCode.ENVIRONMENT
    )


FAMILIES = (steps, plan, models, route, governance, service, registry, cluster)
for family in FAMILIES:
    for verb, example in family.VERBS.items():
        app.command(epilog=f"Example: {example}")(verb)
app.add_typer(cluster.schedule, name="schedule")


def main() -> None:
    """The console script: expected faults end with one paragraph and their exit code, never with a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job would otherwise start with Ctrl-C ignored
        signal.signal(number, signal.default_int_handler)
    try:
        code = app(standalone_mode=False)
        if code == ExitCode.INTERRUPTED:  # typer returns this for Ctrl-C, without a word
            raise KeyboardInterrupt
    except RetainError as error:
        sys.stderr.write(f"retain: {error}\n")
        code = int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort, EOFError):
        sys.stderr.write(f"retain: interrupted; what is finished is kept{_how_to_go_on()}\n")
        code = int(ExitCode.INTERRUPTED)
    except Exception as error:
        if refusal := refusal_of_machine(error):
            sys.stderr.write(f"retain: {refusal}\n")
            code = int(refusal.exit_code)
        elif hasattr(error, "format_message"):  # click's own faults of usage have it
            sys.stderr.write(f"retain: {error.format_message()}\n")
            code = int(ExitCode.USAGE)
        else:
            raise
    sys.exit(code or 0)


def _how_to_go_on() -> str:
    """A run goes on with --resume; the other verbs do so by themselves, or have nothing to go on from."""
    words = [word for word in sys.argv[1:] if word != "--resume"]
    return f". To go on: retain {shlex.join([*words, '--resume'])}" if words[:1] == ["run"] else ""


if __name__ == "__main__":
    main()
