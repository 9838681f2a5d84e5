"""The laptop's engine with the cluster's images: what a container of a local run sees, and who ends it.

Every step runs as on a cluster with the Pod Security profile ``restricted``: not as root, on a read-only root file system,
without capabilities. Paths are the same inside and outside, so that caches and artifacts of one run serve the next; what
a run reads is mounted read-only. The network is the host's, for an MLflow server or an S3 store on loopback.
"""

import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retain import images, weights
from retain.errors import ConfigError, EnvironmentFault
from retain.tracking import home

LABEL = "retain.run"
OWN_ID = 10001  # the images' user, which the chart's pods have too
GRACE_SECONDS = 45  # to write a checkpoint
SHM = "1g"
# Identity, services and their keys, threads; nothing that names a file of this machine.
PASSED = ("RETAIN_", "MLFLOW_", "AWS_", "HF_", "OMP_", "CUDA_VISIBLE_")
NOT_PASSED = ("_FILE", "_BUNDLE", "_PATH", "RETAIN_TTY", "RETAIN_HOME")


@dataclass(frozen=True)
class Place:
    """A path that is the same in the containers."""

    path: Path
    writable: bool


def check() -> None:
    """EnvironmentFault where there is no engine, or it lacks the images of these very sources."""
    with closing(_engine()) as engine:
        names = {tag for image in engine.images.list() for tag in image.tags}
    missing = [images.built(kind) for kind in images.KINDS if images.built(kind) not in names]
    if missing:
        raise EnvironmentFault(
            "the engine has no images of these sources", got=f"no {', '.join(missing)}", fix="make images"
        )


def _engine() -> Any:
    try:
        import docker
    except ImportError:
        raise EnvironmentFault("the package docker is not installed", fix="pip install 'retain[pipelines]'") from None
    try:
        return docker.from_env()
    except docker.errors.DockerException as error:
        raise EnvironmentFault("no container engine answers", got=str(error)[:200], fix="start it: dockerd & (as root), or set DOCKER_HOST") from None  # fmt: skip


def places(runs: Path, recipe: Mapping[str, Any]) -> list[Place]:
    """What a run may write (its folder, the home, the stores of models) and what it reads: the current folder, the recipe's own paths."""
    stores = (str(recipe["publish"]["store"]), os.environ.get(weights.VARIABLE, ""))
    writable = {
        runs.absolute(),
        home().absolute(),
        *(_as_path(store).absolute() for store in stores if _is_local(store)),
    }
    read = {Path.cwd(), *(path for text in _texts(recipe) if _is_local(text) and (path := _as_path(text)).exists())}
    found = [Place(path, True) for path in writable]
    found += [Place(p, False) for p in read if p != Path("/") and not any(p == w or w in p.parents for w in writable)]
    return sorted(found, key=lambda place: place.path)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a recipe."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from _texts(inner)


def _is_local(text: str) -> bool:
    return text.startswith(("/", "file:///"))


def _as_path(text: str) -> Path:
    return Path(text.removeprefix("file://"))


def prepare(found: Iterable[Place], run: Path) -> str:
    """Make what is missing and see that the containers' user can use all of it; that user as ``uid:gid``.

    It is the caller; where the caller is root, the images' own user, who is then given the run and the home.
    """
    for place in found:
        if place.writable:
            place.path.mkdir(parents=True, exist_ok=True)
        elif os.getuid() == 0 and not _readable(place.path):
            raise ConfigError(
                "the steps do not run as root and could not read this", where=str(place.path),
                fix=f"chmod -R o+rX {place.path}; a key that nobody else may read: chown {OWN_ID} {place.path}",
            )  # fmt: skip
    if os.getuid():
        return f"{os.getuid()}:{os.getgid()}"
    for place in found:
        if place.writable:
            _give(run if place.path in run.parents else place.path)
    return f"{OWN_ID}:{OWN_ID}"


def _readable(path: Path) -> bool:
    """For the images' user, as owner or as anybody."""
    found = path.stat()
    wanted = stat.S_IROTH | stat.S_IXOTH if path.is_dir() else stat.S_IROTH
    return found.st_mode & wanted == wanted or (found.st_uid == OWN_ID and bool(found.st_mode & stat.S_IRUSR))


def _give(root: Path) -> None:
    for path in [root, *root.rglob("*")]:
        os.chown(path, OWN_ID, OWN_ID, follow_symlinks=False)


def prepared(run: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's containers, with all they may read and write made ready."""
    found = places(run.parent, recipe)
    (run / "artifacts").mkdir(parents=True, exist_ok=True)  # the engine would make it, and keep it for root
    return settings(found, prepare(found, run), run)


def settings(found: Iterable[Place], user: str, run: Path) -> dict[str, Any]:
    """What kfp.local's DockerRunner passes on to every container; plain values, without the environment."""
    return {
        "mounts": [{"Type": "bind", "Source": str(p.path), "Target": str(p.path), "ReadOnly": not p.writable} for p in found],
        "user": user, "working_dir": str(Path.cwd()), "labels": {LABEL: run.name}, "network_mode": "host", "read_only": True,
        "tmpfs": {"/tmp": "exec,mode=1777"}, "shm_size": SHM, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"],
    }  # fmt: skip


def runner(found: Mapping[str, Any]) -> Any:
    """kfp's DockerRunner from :func:`settings`, with this process's own environment and the machine's GPUs."""
    from kfp import local

    return local.DockerRunner(**found, environment=environment(), **_gpus())


def environment() -> dict[str, str]:
    """What the steps are told of this process: never a path of this machine but the home, which is mounted."""
    passed = {k: v for k, v in os.environ.items() if k.startswith(PASSED) and not k.endswith(NOT_PASSED)}
    return {**passed, "RETAIN_HOME": str(home().absolute())}


def _gpus() -> dict[str, Any]:
    if not Path("/dev/nvidia0").exists():
        return {}
    from docker.types import DeviceRequest

    return {"device_requests": [DeviceRequest(count=-1, capabilities=[["gpu"]])]}


def stop(run: str) -> None:
    """End the containers of a run: SIGTERM to the step itself (the shell around it hands nothing on), then by force."""
    end = time.monotonic() + GRACE_SECONDS
    with closing(_engine()) as engine:
        for container in engine.containers.list(filters={"label": f"{LABEL}={run}"}):
            _stop(container, max(end - time.monotonic(), 1))


def _stop(container: Any, seconds: float) -> None:
    import docker

    try:
        container.exec_run(["sh", "-c", "kill -TERM -1"])
        container.wait(timeout=seconds)
    except docker.errors.APIError:
        return  # it came to its own end before
    except OSError:
        sys.stderr.write(f"{container.name} did not end in time and is killed\n")
        container.kill()
