"""What the built images really hold: seen from inside, under the rules a cluster gives its pods."""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from retain import images
from retain_pipelines.compiling import PIPELINES

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
RULES = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "tmpfs": {"/tmp": "exec,mode=1777"}, "network_mode": "none", "remove": True}  # fmt: skip
FACES = Path(images.__file__).parent.glob("*/component.py")
IMAGE_OF = {face.parent.name: match[1] for face in FACES if (match := re.search(r"^@on_(cpu|gpu)$", face.read_text(), re.MULTILINE))}  # fmt: skip


def said(engine: Any, image: str, *command: str, **options: Any) -> str:
    """stdout of a command in a fresh container; it must end with 0."""
    return str(engine.containers.run(image, list(command), **{**RULES, **options}).decode())


def file_in(engine: Any, image: str, path: str) -> bytes:
    """A file of an image that is not started; the log of a short-lived container may lose its end."""
    container = engine.containers.create(image, ["true"])
    try:
        stream, _ = container.get_archive(path)
        with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
            member = archive.extractfile(path.rpartition("/")[2])
            assert member
            return member.read()
    finally:
        container.remove()


def test_the_command_is_the_callers_and_the_user_a_number(engine: Any, image: str) -> None:
    config = engine.images.get(image).attrs["Config"]
    assert not config["Entrypoint"]
    assert config["User"] == "10001:10001"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == images.content_tag() == image.partition(":")[2]
    assert said(engine, image, "id", "-u").strip() == "10001"


def test_no_address_and_no_secret_is_in_the_history(engine: Any, image: str) -> None:
    history = engine.images.get(image).history()
    assert len(history) > 5
    text = json.dumps([history, engine.images.get(image).attrs["Config"]])
    assert "://" not in text
    assert not [word for word in ("find-links=", "index-url", "BEGIN CERTIFICATE", "UV_DEFAULT_INDEX=") if word in text]


def test_nothing_of_the_build_is_left_inside(engine: Any, image: str) -> None:
    left = said(engine, image, "sh", "-c", "ls -A /tools /dist /images /wheels /cache /run/secrets /root/.cache 2>/dev/null; true")  # fmt: skip
    assert not [line for line in left.splitlines() if line and not line.endswith(":")]
    assert said(engine, image, "sh", "-c", "command -v gcc cc uv || echo none").strip() == "none"
    notes = said(engine, image, "sh", "-c", "find /opt/retain \\( -name direct_url.json -o -name pip.conf -o -name uv.toml \\) | wc -l")  # fmt: skip
    assert notes.strip() == "0"


@pytest.mark.parametrize("user", ["10001:10001", "1000730000:0"], ids=["the chart's", "OpenShift's"])
def test_every_step_can_be_imported_under_any_user_id(engine: Any, image: str, user: str) -> None:
    steps = [step for step, kind in IMAGE_OF.items() if image.startswith(f"retain-{kind}")]
    steps += ["resolve", "pair", "renew"] if "gpu" in image else []  # where they convert a GGUF base
    assert len(steps) >= 5
    code = f"import importlib, kfp.dsl.executor_main\nfor step in {steps}: importlib.import_module(f'retain.{{step}}.work')\nimport getpass; print(getpass.getuser())"
    assert said(engine, image, "python3", "-c", code, user=user).splitlines()[-1] == "retain"


def test_the_sbom_is_what_is_installed(engine: Any, image: str) -> None:
    bom = json.loads(file_in(engine, image, "/opt/retain/sbom.cdx.json"))
    assert bom["bomFormat"] == "CycloneDX"
    listed = {part["name"].lower().replace("_", "-"): part["version"] for part in bom["components"]}
    installed = json.loads(
        said(engine, image, "python3", "-c", "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))")
    )  # fmt: skip
    assert {name.lower().replace("_", "-"): version for name, version in installed.items()} == listed
    assert listed["retain"] == images.version()
    assert ("torch" in listed) == image.startswith("retain-gpu")


def test_the_cpu_image_has_the_programs_of_the_chart(engine: Any) -> None:
    image = images.built("cpu")
    for program in ("mlflow", "retain"):
        assert said(engine, image, program, "--help")
    assert "psycopg" in said(engine, image, "python3", "-c", "import psycopg, sqlalchemy; print(psycopg.__name__)")


def test_the_upload_job_compiles_every_pipeline_in_the_cpu_image(engine: Any) -> None:
    digests = [part for kind in images.KINDS for part in ("--image-digest", f"{kind}=sha256:{'a' * 64}")]
    written = said(engine, images.built("cpu"), "retain", "compile", "--profile", "default", "--registry", "registry.example.com/ml", *digests, "--out", "/tmp/out")  # fmt: skip
    assert {line.rpartition("/")[2] for line in written.split()} == {f"{name}.yaml" for name in PIPELINES}


def test_four_bit_weights_open_where_there_is_no_gpu(engine: Any) -> None:
    """libgomp is a library of the system that no wheel brings: without it, bitsandbytes is silently useless on a CPU."""
    code = "import torch, bitsandbytes.functional as f; q, s = f.quantize_4bit(torch.ones(64, 64), quant_type='nf4'); print(f.dequantize_4bit(q, s).mean().item())"
    assert float(said(engine, images.built("gpu"), "python3", "-c", code).splitlines()[-1]) == pytest.approx(1.0)
