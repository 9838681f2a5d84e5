"""The tag of a build is its content: whatever changes an image changes it, and nothing else does."""

import re
import shutil
from pathlib import Path

import pytest

from retain import images

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout with the parts that matter."""
    for name in (
        "components/retain/gate/work.py",
        "components/retain/score/core/core.yaml",
        "pipelines/retain_pipelines/cli/app.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for name in (
        "images/Dockerfile",
        "images/install.sh",
        "pyproject.toml",
        "images/locks/cpu.txt",
        "images/locks/gpu.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def tag(checkout: Path) -> str:
    packages = [checkout / "components/retain", checkout / "pipelines/retain_pipelines"]
    return images.tag_of(packages, checkout)


def test_a_tag_is_the_version_and_twelve_hex_and_the_same_everywhere(checkout: Path, tmp_path: Path) -> None:
    assert re.fullmatch(re.escape(images.version()) + r"-[0-9a-f]{12}", tag(checkout))
    copy = tmp_path / "elsewhere"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns("elsewhere"))
    assert tag(copy) == tag(checkout)


@pytest.mark.parametrize(
    "name",
    [
        "components/retain/gate/work.py", "components/retain/score/core/core.yaml", "components/retain/score/core/new.json",
        "pipelines/retain_pipelines/cli/app.py", "images/Dockerfile", "images/install.sh", "images/locks/cpu.txt", "images/locks/new.txt",
        "pyproject.toml",
    ],
)  # fmt: skip
def test_what_goes_into_an_image_changes_its_tag(checkout: Path, name: str) -> None:
    before = tag(checkout)
    with (checkout / name).open("a") as stream:
        stream.write("# changed\n")
    assert tag(checkout) != before


@pytest.mark.parametrize(
    "name",
    [
        "pipelines/compiled/finetune.yaml", "images/README.md", "images/wheels/torch.whl", "tests/test_x.py", "CHANGELOG.md",
        "components/retain/gate/__pycache__/work.pyc", "components/retain/.swp",
    ],
)  # fmt: skip
def test_what_does_not_leaves_the_tag_alone(checkout: Path, name: str) -> None:
    before = tag(checkout)
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("changed")
    assert tag(checkout) == before


def test_a_file_that_moved_is_another_build(checkout: Path) -> None:
    before = tag(checkout)
    (checkout / "components/retain/gate/work.py").rename(checkout / "components/retain/gate/works.py")
    assert tag(checkout) != before


def test_the_tag_of_this_checkout_names_its_images() -> None:
    assert images.built("cpu") == f"retain-cpu:{images.content_tag()}"
    packages = [ROOT / "components/retain", ROOT / "pipelines/retain_pipelines"]
    assert images.content_tag() == images.tag_of(packages, ROOT)
