"""Recurring runs, and pipelines kept on the server: both made whole in one request or not at all."""

import re
import tempfile
from pathlib import Path
from typing import Any

from retain import digest, images
from retain.config import nearest
from retain.errors import ConfigError, UsageError
from retain_pipelines import compiling
from retain_pipelines.cluster import Package
from retain_pipelines.profile import Profile
from retain_pipelines.server import Gone, Server

# robfig/cron as KFP's server uses it: seconds first. (name, lowest, highest)
FIELDS = (("second", 0, 59), ("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 6))
ENTRY = re.compile(r"(\*|\?|\d+(-\d+)?|[A-Za-z]{3}(-[A-Za-z]{3})?)(/\d+)?")
NAMED = re.compile(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly|every \d+[smh](\d+[smh])*)")


def cron(text: str) -> str:
    """``0 3 * * *`` or with seconds in front; in KFP's own form, which has seconds. The server's clock counts (mostly UTC)."""
    parts = text.split()
    if NAMED.fullmatch(text):
        return text
    if len(parts) == 5:
        parts = ["0", *parts]
    if len(parts) != 6:
        raise ConfigError("--cron takes 5 fields, or 6 with seconds in front", got=text, expected="0 3 * * * (at three every night)")  # fmt: skip
    for part, (name, low, high) in zip(parts, FIELDS, strict=True):
        numbers = [int(n) for n in re.findall(r"\d+", re.sub(r"/\d+", "", part))]
        if not all(ENTRY.fullmatch(entry) for entry in part.split(",")) or not all(low <= n <= high for n in numbers):
            raise ConfigError(f"--cron: this is no {name}", got=part, expected=f"{low}-{high}, *, a-b, */n or a list of them")  # fmt: skip
    return " ".join(parts)


def create(
    server: Server, package: Package, profile: Profile, *, name: str, when: str, experiment: str, replace: bool = False
) -> dict[str, Any]:
    """A recurring run with every argument in full, one run at a time, and nothing made up for missed times.

    replace: an older one of the same name is removed once the new one is there; where the new one fails, the old one stays.
    """
    kfp = server.kfp
    every = cron(when)
    old = _find(server, name)
    if old is not None and not replace:
        raise UsageError("there is a schedule of this name", got=name, fix="--replace takes its place; or give another --name")  # fmt: skip
    before = server.identity(old, "recurring_run_id") if old is not None else ""
    with server.in_experiment(experiment) as place:
        wanted = kfp.V2beta1RecurringRun(
            display_name=name, experiment_id=place, pipeline_spec=package.body(), max_concurrency="1", no_catchup=True,
            mode=kfp.RecurringRunMode.ENABLE, trigger=kfp.V2beta1Trigger(cron_schedule=kfp.V2beta1CronSchedule(cron=every)),
            runtime_config=kfp.V2beta1RuntimeConfig(parameters=package.arguments, pipeline_root=profile.pipeline_root or None),
            service_account=profile.service_account or None,
        )  # fmt: skip
        made = server.make("creating the schedule", lambda: _other(_find(server, name), before), server.schedules.recurring_run_service_create_recurring_run, wanted)  # fmt: skip
        server.identity(made, "recurring_run_id")
    if before:
        _remove(server, before)
    return _row(made)


def _other(found: Any | None, before: str) -> Any | None:
    return found if found is not None and found.recurring_run_id != before else None


def listed(server: Server) -> list[dict[str, Any]]:
    """All schedules of the namespace: name, cron, status, id."""
    found = server.all("listing the schedules", server.schedules.recurring_run_service_list_recurring_runs, "recurring_runs", **server.place)  # fmt: skip
    return [_row(entry) for entry in found]


def switch(server: Server, name: str, *, on: bool) -> None:
    """Pause a schedule, or let a paused one go on."""
    call = server.schedules.recurring_run_service_enable_recurring_run if on else server.schedules.recurring_run_service_disable_recurring_run  # fmt: skip
    server.ask("switching the schedule", call, _the(server, name))  # the same again changes nothing


def delete(server: Server, name: str) -> None:
    """Remove a schedule; its past runs stay."""
    _remove(server, _the(server, name))


def _remove(server: Server, identity: str) -> None:
    try:
        server.ask("deleting the schedule", server.schedules.recurring_run_service_delete_recurring_run, identity)
    except Gone:  # a first answer was lost after the deletion
        return


def _find(server: Server, name: str) -> Any | None:
    return server.named("looking for the schedule", server.schedules.recurring_run_service_list_recurring_runs, "recurring_runs", name, **server.place)  # fmt: skip


def _the(server: Server, name: str) -> str:
    found = _find(server, name)
    if found is None:
        names = [row["name"] for row in listed(server)]
        near = nearest(name, names)
        raise UsageError("there is no such schedule", got=name, expected=", ".join(names) or "none exists", fix=f"did you mean '{near}'?" if near else "")  # fmt: skip
    return server.identity(found, "recurring_run_id")


def _row(entry: Any) -> dict[str, Any]:
    trigger = entry.trigger.cron_schedule.cron if entry.trigger and entry.trigger.cron_schedule else ""
    return {"name": entry.display_name, "cron": trigger, "status": str(entry.status or entry.mode or ""), "id": entry.recurring_run_id}  # fmt: skip


def upload(server: Server, package: Package) -> dict[str, Any]:
    """The pipeline, or a new version of it; what is there already with the same content is left as it is."""
    sha = digest.of_json(package.body())
    note = f"{compiling.form_page(package.spec)}\n\nretain {images.version()}, content {sha}"
    known = server.named("looking for the pipeline", server.pipelines.pipeline_service_list_pipelines, "pipelines", package.name, **server.place)  # fmt: skip
    version = _version(server, known, sha) if known else None
    if version is not None:
        return _uploaded(package.name, version, False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        file.write_text(compiling.as_yaml([package.spec, package.platform]), encoding="utf-8")
        if known is None:
            made = server.tell("uploading the pipeline", server.uploads.upload_pipeline, str(file), name=package.name, description=note, **server.place)  # fmt: skip
            server.identity(made, "pipeline_id")
            return {"pipeline": package.name, "pipeline_id": made.pipeline_id, "version": package.name, "new": True}
        name = f"{images.version()}-{sha.removeprefix('sha256:')[:12]}"
        made = server.tell("uploading the version", server.uploads.upload_pipeline_version, str(file), name=name, pipelineid=known.pipeline_id, description=note)  # fmt: skip
        server.identity(made, "pipeline_version_id")
        return _uploaded(package.name, made, True)


def _version(server: Server, pipeline: Any, sha: str) -> Any | None:
    versions = server.all("listing the versions", server.pipelines.pipeline_service_list_pipeline_versions, "pipeline_versions", pipeline.pipeline_id)  # fmt: skip
    return next((version for version in versions if sha in (version.description or "")), None)


def _uploaded(name: str, version: Any, new: bool) -> dict[str, Any]:
    return {"pipeline": name, "pipeline_id": version.pipeline_id, "version": version.display_name or version.name, "new": new}  # fmt: skip
