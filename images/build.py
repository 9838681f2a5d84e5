"""Build both images with the engine of this machine: ``make images`` (images/README.md has the variables).

What is written beside them: ``dist/images/retain-<kind>-<tag>.cdx.json``, the SBOM of what the image really holds, and
``dist/images/<tag>.json``: names, ids, sizes.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from retain import images
from retain.errors import EnvironmentFault, RetainError

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SBOM = "/opt/retain/sbom.cdx.json"


def client() -> str:
    """The docker client that can hand secrets to a build; two clients on one PATH are common, and not every one can."""
    for folder in os.get_exec_path():
        found = shutil.which("docker", path=folder)
        if found and "--secret" in _said([found, "build", "--help"]):
            return found
    raise EnvironmentFault(
        "no docker client that can build with secrets (BuildKit)", where="PATH", got=shutil.which("docker") or "none",
        fix="Debian: apt-get install docker.io; elsewhere: docker with buildx",
    )  # fmt: skip


def _said(command: Sequence[str]) -> str:
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False).stdout


def check_engine(docker: str) -> None:
    if not _said([docker, "version", "--format", "{{.Server.Version}}"]).strip():
        raise EnvironmentFault("the container engine does not answer", got=docker, fix="start it: dockerd & (as root), or the desktop's engine")  # fmt: skip


def check_base(docker: str, base: str) -> None:
    """A base that is neither here nor to be pulled is said before a minute is spent."""
    if _said([docker, "image", "inspect", "--format", "{{.Id}}", base]).strip():
        return
    done = subprocess.run([docker, "pull", "--quiet", base], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFault(
            "the base image cannot be pulled", got=base, where=done.stderr.strip()[-200:],
            fix="BASE=<an image you have>; where no registry is reached, `make image-base` makes one from Debian's packages, then BASE=retain-base:bookworm",
        )  # fmt: skip


def default_base() -> str:
    """The one base that the Dockerfile names, by digest."""
    line = next(
        line for line in (HERE / "Dockerfile").read_text(encoding="utf-8").splitlines() if line.startswith("ARG BASE=")
    )
    return line.removeprefix("ARG BASE=")


@contextlib.contextmanager
def wheels_in_context(folder: str) -> Iterator[None]:
    """The wheels that go before the index (a torch build for this machine), in the build context for as long as it takes."""
    laid = [HERE / "wheels" / wheel.name for wheel in (Path(folder).glob("torch-*.whl") if folder else ())]
    try:
        for place in laid:
            shutil.copyfile(Path(folder) / place.name, place)
        yield
    finally:
        for place in laid:
            place.unlink(missing_ok=True)


def build(docker: str, kind: images.Kind, given: argparse.Namespace) -> None:
    """One target, named by its content. Network and secrets as given; neither is kept in the image or its history."""
    command = [
        docker, "build", "--file", str(HERE / "Dockerfile"), "--target", kind, "--tag", images.built(kind),
        "--build-arg", f"BASE={given.base}", "--build-arg", f"TAG={images.content_tag()}", "--build-arg", f"REVISION={revision()}",
        *[part for name, file in (("ca", given.ca), ("index", given.index)) if file for part in ("--secret", f"id={name},src={file}")],
        *(["--network", given.network] if given.network else []), str(ROOT),
    ]  # fmt: skip
    subprocess.run(command, env={**os.environ, "DOCKER_BUILDKIT": "1"}, check=True)


def revision() -> str:
    commit = _said(["git", "-C", str(ROOT), "rev-parse", "HEAD"]).strip()
    changed = _said(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]).strip()
    return (commit + ("-changed" if changed else "")) or "unknown"


def describe(docker: str, kind: images.Kind, folder: Path) -> dict[str, Any]:
    """Name, id, bytes and number of packages of a built image; its SBOM is written to ``folder``."""
    name = images.built(kind)
    inspected = json.loads(_said([docker, "image", "inspect", name]))[0]
    bom = subprocess.run([docker, "run", "--rm", "--network=none", name, "cat", SBOM], capture_output=True, check=True).stdout  # fmt: skip
    packages = {part["name"]: part.get("version", "") for part in json.loads(bom)["components"]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name.replace(':', '-')}.cdx.json").write_bytes(bom)
    return {"name": name, "id": inspected["Id"], "bytes": inspected["Size"], "packages": len(packages), "torch": packages.get("torch", "none")}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--base", default="", help="base image with Python 3.11 and venv; empty: the Dockerfile's, by digest"
    )
    parser.add_argument("--wheels", default="", help="folder whose torch-*.whl goes before the index's")
    parser.add_argument("--ca", default="", help="certificate bundle for the way to the index")
    parser.add_argument("--index", default="", help="file of shell lines: UV_DEFAULT_INDEX=…, PIP_INDEX_URL=…")
    parser.add_argument("--network", default="", help="network of the build, e.g. host")
    given = parser.parse_args()
    given.base = given.base or default_base()
    docker = client()
    check_engine(docker)
    check_base(docker, given.base)
    folder = ROOT / "dist" / "images"
    facts = []
    for kind in images.KINDS:
        with wheels_in_context(given.wheels):
            build(docker, kind, given)
        facts.append(describe(docker, kind, folder))
        sys.stdout.write("{name}  {gib:.2f} GB  {packages} packages  torch {torch}\n".format(**facts[-1], gib=facts[-1]["bytes"] / 1e9))  # fmt: skip
    (folder / f"{images.content_tag()}.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except RetainError as error:
        sys.exit(f"make images: {error}")
