"""The task files over public data: one for every benchmark file, each asked as lm-eval asks it."""

import re
from pathlib import Path
from typing import Any

import pytest

from retain.score import tasks
from retain.score.config import ScoreConfig, TaskSpec

from .tasks import data

HERE = Path(__file__).parent / "tasks"
NAMES = sorted(re.search(r"^task: (\S+)", path.read_text(), re.MULTILINE)[1] for path in HERE.glob("*.yaml"))  # type: ignore[index]
pytestmark = pytest.mark.skipif(not data.root().is_dir(), reason="no public data files beside the checkout")


@pytest.fixture(scope="module")
def leaves() -> dict[str, Any]:
    specs = [TaskSpec(name=name, limit=2) for name in NAMES]
    config = ScoreConfig(tasks=specs, include_path=[str(HERE)])
    return {leaf.benchmark: leaf for leaf in tasks.load(config)}


def test_every_benchmark_file_has_a_task() -> None:
    files = {path.name.split(".")[0] for path in (data.root() / "benchmarks").iterdir()}
    said = " ".join(path.read_text() for path in HERE.iterdir() if path.is_file())
    assert len(files) == 26
    assert {name for name in files if not re.search(rf"\b{name}\b", said)} == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_task_asks_its_items(name: str, leaves: dict[str, Any]) -> None:
    """Two items, each with its question, more than one choice where there are choices, and a right one among them."""
    leaf = leaves[name]
    asked = tasks.build_requests(leaf, ScoreConfig(), None, "")
    assert {request.doc_id for request in asked} == {0, 1}
    assert all(isinstance(text, str) and text.strip() for request in asked for text in request.args[-1:] if isinstance(text, str))  # fmt: skip
    if leaf.task.OUTPUT_TYPE == "multiple_choice":
        for _, doc in leaf.docs():
            choices = leaf.task.doc_to_choice(doc)
            gold = leaf.task.doc_to_text(doc) if leaf.task.multiple_input else leaf.task.doc_to_target(doc)
            assert len(choices) > 1
            assert 0 <= int(gold) < len(choices)


def test_instructions_are_checked_as_lm_eval_checks_them(leaves: dict[str, Any]) -> None:
    """IFEval's second item forbids commas."""
    pytest.importorskip("langdetect")
    doc = dict(leaves["ifeval"].docs())[1]
    check = leaves["ifeval"].task.process_results
    assert check(doc, ["Good morrow, friend"])["prompt_level_strict_acc"] is False
    assert check(doc, ["Good morrow friend"]) == {"prompt_level_strict_acc": True, "inst_level_strict_acc": [True]}
