"""The gate's items for decontamination, in a process that never sees torch."""

import os
import subprocess
import sys
from pathlib import Path

from retain.score.config import ScoreConfig, TaskSpec
from retain.score.items import gate_items

TORCH_FREE = """
import sys
from retain.score.config import ScoreConfig, TaskSpec
from retain.score.items import gate_items
items = list(gate_items(ScoreConfig(tasks=[TaskSpec(name="tiny_choice")], include_path=[sys.argv[1]])))
assert len(items) == 9, items
assert "torch" not in sys.modules
"""


def test_items_hold_question_and_answers_under_the_names_of_the_scores(tiny_tasks: Path) -> None:
    names = ["tiny_choice", "tiny_inputs", "tiny_last", "tiny_text", "tiny_answer"]
    config = ScoreConfig(tasks=[TaskSpec(name=name, limit=2) for name in names], include_path=[str(tiny_tasks)])
    items = list(gate_items(config))
    assert [item.task for item in items] == [name for name in names for _ in range(2)]
    by_task = {item.task: item.text for item in items if item.doc_id == "0"}
    question, first = by_task["tiny_choice"].split("\n")[:2]
    assert question.endswith("0?")
    assert first in by_task["tiny_inputs"]
    assert first in by_task["tiny_last"]
    assert first in by_task["tiny_answer"]
    assert len(by_task["tiny_text"].split()) >= 20


def test_no_torch_is_imported(tiny_tasks: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", TORCH_FREE, str(tiny_tasks)], check=True, env=environment)
