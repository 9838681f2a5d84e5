"""What a user installs is the wheel, not the checkout: built, installed in an environment of its own, and run there."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from small_world import build

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=CHECKOUT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``retain`` command of an environment that has the wheel, and this one's foreign packages."""
    root = tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", f"--python={root / 'bin' / 'python'}", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)],
        check=True,
    )  # fmt: skip
    packages = next((root / "lib").glob("python*/site-packages"))
    # A plain path: the .pth files in there are not followed, so the checkout installed for editing stays unseen.
    (packages / "foreign.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return root / "bin" / "retain"


def alone(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "RETAIN_HOME": str(home), "OMP_NUM_THREADS": "1"}


def test_the_wheel_carries_everything_the_shipped_recipe_reads(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for part in ("recipes/quickstart.yaml", "recipes/naive.yaml", "example/train.jsonl", "example/general.jsonl"):
        assert f"retain_pipelines/{part}" in names
    assert sum("retain/score/core/" in name and name.endswith(".yaml") for name in names) >= 5
    assert not [name for name in names if name.startswith(("tests/", "components/", "pipelines/"))]


@pytest.mark.timeout(600)
def test_the_main_job_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    world = build(tmp_path / "world")
    where = subprocess.run(
        [str(installed.with_name("python")), "-c", "import retain, retain_pipelines as p; print(retain.__path__, p.__path__)"],
        cwd=world, env=alone(world / "home"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(CHECKOUT) not in where.stdout.replace(sysconfig.get_path("purelib"), "")
    done = subprocess.run(
        [str(installed), "run", "careful.yaml", "--json"],
        cwd=world, env=alone(world / "home"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert '"pass"' in done.stdout
