"""A run on a cluster: packed, sent whole, followed, and its verdict read from which final task ran.

KFP's API returns no outputs. Its task list names tasks by their keys in the pipeline (``stop-2``), not by their display
names, so both are looked up in the very spec that was sent.
"""

import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from retain import uris
from retain.config import nearest
from retain.errors import ConfigError, EnvironmentFault, ExitCode, IntegrityError
from retain.resolve.recipe import Recipe
from retain_pipelines import compiling
from retain_pipelines.endings import FINALS
from retain_pipelines.pods import Images
from retain_pipelines.profile import Profile
from retain_pipelines.server import Away, Gone, Server

TERMINAL = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
RAN = {"SUCCEEDED", "FAILED"}
POLL_SECONDS = 10.0
FOLLOW_PATIENCE_SECONDS = 900.0  # how long a server may be away while a run is followed
# A repaired or compressed model has a gate of its own.
VERDICT = re.compile(r"(^|/)gate(-\d+)?/(.*/)?verdict/verdict\.json$")
GREEN = {name for name, code in FINALS.items() if code in (ExitCode.OK, ExitCode.AWAITING_APPROVAL)}


@dataclass(frozen=True)
class Package:
    """A compiled pipeline with its profile, and every argument in full."""

    name: str
    spec: dict[str, Any]
    platform: dict[str, Any]
    arguments: dict[str, Any]

    def body(self) -> dict[str, Any]:
        return {"pipeline_spec": self.spec, "platform_spec": self.platform}


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code as in retain.errors, the final task that ran, and the verdict where it could be fetched."""

    run_id: str
    url: str
    state: str
    ending: str
    exit_code: int
    message: str
    verdict: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def pack(
    pipeline: str,
    recipe: Recipe,
    profile: Profile,
    images: Images,
    arguments: Mapping[str, Any],
    *,
    fresh: bool = False,
) -> Package:
    """Compile ``pipeline`` with ``profile``; UsageError (2) for an image without a digest or an argument it does not have.

    fresh: no task takes its results from KFP's cache.
    """
    images.check()
    check_reach(arguments, profile)
    spec, platform = compiling.with_profile(pipeline, profile, images, recipe)
    check_arguments(spec, arguments)
    return Package(pipeline, compiling.without_cache(spec) if fresh else spec, platform, dict(arguments))


def pack_for_form(pipeline: str, recipe: Recipe, profile: Profile, images: Images) -> Package:
    """The same with the pipeline's own defaults, to be filled in by a person in the run form."""
    images.check()
    spec, platform = compiling.with_profile(pipeline, profile, images, recipe)
    defaults = {name: entry["defaultValue"] for name, entry in spec["root"]["inputDefinitions"]["parameters"].items()}
    return Package(pipeline, spec, platform, defaults)


def check_arguments(spec: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Every parameter of the pipeline, and nothing else: a run that is cloned in the UI shows only what was sent."""
    known = set(spec["root"]["inputDefinitions"]["parameters"])
    for name in sorted(set(arguments) - known):
        near = nearest(name, sorted(known))
        raise ConfigError(f"{name}: the pipeline has no such parameter", fix=f"did you mean '{near}'?" if near else "")
    if missing := sorted(known - set(arguments)):
        raise ConfigError("not every argument is there", got=f"without {', '.join(missing)}")


def check_reach(arguments: Mapping[str, Any], profile: Profile) -> None:
    """Refuse addresses that a pod cannot reach: this machine's files, and the hub where the profile is offline."""
    offline = profile.environment.get("HF_HUB_OFFLINE") == "1"
    for name, uri in _addresses(arguments):
        kind = uris.scheme(uri)
        if kind == "file" and not (profile.home.claim and Path(uri.removeprefix("file://")).is_relative_to(profile.home.mount_path)):  # fmt: skip
            raise ConfigError(f"{name}: a pod does not see this machine's files", got=uri, fix=f"put it on s3://, oci:// or hf://, or on the volume under {profile.home.mount_path}")  # fmt: skip
        if kind == "hf" and offline:
            raise ConfigError(f"{name}: the profile's pods have no way to the hub (HF_HUB_OFFLINE)", got=uri, fix="put the model on s3:// or on the volume")  # fmt: skip


def _addresses(arguments: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("base_model", "candidate_model", "data_id"):
        if arguments.get(name):
            yield name, arguments[name]
    for key, value in (arguments.get("data_settings") or {}).items():
        if key.startswith("datasets.") and key.endswith(".path"):
            yield f"data_settings.{key}", value
    for folder in filter(None, str((arguments.get("score_settings") or {}).get("include_path", "")).split(", ")):
        yield "score_settings.include_path", folder


def submit(server: Server, package: Package, profile: Profile, *, experiment: str, name: str = "") -> str:
    """Start one run and return its id. Sent once; where the answer is lost, the run is looked for by its name."""
    kfp = server.kfp
    title = f"{name or package.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    with server.in_experiment(experiment) as place:
        wanted = kfp.V2beta1Run(
            experiment_id=place, display_name=title, pipeline_spec=package.body(),
            runtime_config=kfp.V2beta1RuntimeConfig(parameters=package.arguments, pipeline_root=profile.pipeline_root or None),
            service_account=profile.service_account or None,
        )  # fmt: skip

        def there() -> Any | None:
            return server.named("looking for the run", server.runs.run_service_list_runs, "runs", title, experiment_id=place)  # fmt: skip

        run = server.make("starting the run", there, server.runs.run_service_create_run, wanted)
        return server.identity(run, "run_id")


def link(server: Server, run_id: str) -> str:
    return f"{server.host}/#/runs/details/{run_id}"


def titles(spec: Mapping[str, Any]) -> dict[str, str]:
    """Key of every task that is a pod → its display name; conditions are left out."""
    dags = [spec["root"], *spec.get("components", {}).values()]
    tasks = [item for dag in dags for item in dag.get("dag", {}).get("tasks", {}).items()]
    return {key: task["taskInfo"]["name"] for key, task in tasks if "dag" not in spec["components"][task["componentRef"]["name"]]}  # fmt: skip


def follow(
    server: Server, run_id: str, *, show: Callable[[str], None], poll: float = POLL_SECONDS, patience: float = FOLLOW_PATIENCE_SECONDS,
) -> Ended:  # fmt: skip
    """Wait for the run's end, saying each task's beginning and end. Gone (8) for a run that disappears."""
    seen: dict[str, str] = {}
    away: list[Away] = []

    def waiting(fault: Away) -> None:
        away.append(fault)
        if len(away) == 1:
            show(
                f"{time.strftime('%H:%M:%S')}  {fault.what}: {fault.got}; asked again for up to {patience / 60:.0f} minutes"
            )

    while True:
        away.clear()
        try:
            run = server.ask(
                "following the run", server.runs.run_service_get_run, run_id, patience=patience, waiting=waiting
            )
        except Gone:
            raise EnvironmentFault("the run has disappeared from the server", where=link(server, run_id), got="404", expected="a run that ends in a final task", fix="somebody deleted it, or the server lost its database; submit again") from None  # fmt: skip
        server.identity(run, "run_id")
        names = titles(_spec_of(server, run))
        states = _states(run, names)
        for title, state in states.items():
            if seen.get(title) != state:
                show(f"{time.strftime('%H:%M:%S')}  {title:<20} {state.lower()}")
        seen = states
        if run.state in TERMINAL:
            return _ended(server, run, states)
        time.sleep(poll)


def _spec_of(server: Server, run: Any) -> Mapping[str, Any]:
    """The spec that the run was made from: in the run itself, or in the pipeline version it names."""
    spec = run.pipeline_spec
    if not spec and (version := run.pipeline_version_reference):
        answer = server.ask("reading the pipeline", server.pipelines.pipeline_service_get_pipeline_version, version.pipeline_id, version.pipeline_version_id)  # fmt: skip
        spec = answer.pipeline_spec
    spec = (spec or {}).get("pipeline_spec", spec)
    if not spec or "root" not in spec:
        raise EnvironmentFault("the server does not say which pipeline the run is of", where=link(server, run.run_id))
    found: Mapping[str, Any] = spec
    return found


def _states(run: Any, names: Mapping[str, str]) -> dict[str, str]:
    """Display name → state of each task that is a pod; servers name a task by its key, or by its display name."""
    details = (run.run_details.task_details if run.run_details else None) or []
    shown = set(names.values())
    states: dict[str, str] = {}
    for detail in details:
        title = names.get(detail.display_name, detail.display_name if detail.display_name in shown else "")
        known = states.get(title, "") in RAN  # the same name may stand in a branch that was not taken, too
        if title and detail.state and not known:
            states[title] = str(detail.state)
    return states


def _ended(server: Server, run: Any, states: Mapping[str, str]) -> Ended:
    ran = [name for name in FINALS if states.get(name) in RAN]
    url = link(server, run.run_id)
    if len(ran) != 1:
        failed = [name for name, state in states.items() if state == "FAILED"]
        said = f"{run.state}; failed: {', '.join(failed)}" if failed else f"{run.state}; final tasks: {', '.join(ran) or 'none'}"  # fmt: skip
        return Ended(run.run_id, url, run.state, "", int(ExitCode.ENVIRONMENT), f"the run ended without a verdict ({said})")  # fmt: skip
    ending = ran[0]
    if ending in GREEN and states[ending] != "SUCCEEDED":
        return Ended(run.run_id, url, run.state, ending, int(ExitCode.ENVIRONMENT), f"the gate said {ending}, but that task failed; see its log")  # fmt: skip
    return Ended(run.run_id, url, run.state, ending, int(FINALS[ending]), ending)


def fetch_verdict(root: str, pipeline: str, ended: Ended, folder: Path) -> dict[str, Any]:
    """verdict.json of the run from the object store, under ``root`` (s3://bucket/prefix of the pipeline root).

    IntegrityError (6) where it says another thing than the task that ran.
    """
    from retain import s3
    from retain.artifacts import read_json

    if urlsplit(root).scheme != "s3":
        raise ConfigError("--artifacts takes the pipeline root on S3", got=root, expected="s3://bucket/prefix")
    base = f"{root.rstrip('/')}/{pipeline}/{ended.run_id}"
    found = {name: entry for name, entry in s3.listing(base).items() if VERDICT.search(name)}
    if not found:
        raise EnvironmentFault("the run left no verdict.json", where=base, fix="check --artifacts: it is the pipeline root of the run")  # fmt: skip
    s3.download(base, found, folder)
    verdicts = [read_json(folder / name, schema="retain.verdict/1") for name in sorted(found)]
    wanted = FINALS[ended.ending]
    agreeing = [verdict for verdict in verdicts if ExitCode(verdict["exit_code"]) == wanted]
    if not agreeing:
        said = ", ".join(str(verdict["exit_code"]) for verdict in verdicts)
        raise IntegrityError("verdict.json and the task that ran do not agree", where=base, got=f"exit code {said}", expected=f"{ended.ending} ({int(wanted)})")  # fmt: skip
    return agreeing[-1]
