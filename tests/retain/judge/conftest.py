"""Ten open questions, scorings of them with any answers, and a judge to compare them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from judge_server import KEY, Judge, serving

from retain.artifacts import write_scores
from retain.score import tasks
from retain.score.config import ScoreConfig, TargetConfig, TaskSpec

YAML = """
task: asked
custom_dataset: !function data.load
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: ""
generation_kwargs: {until: [], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
DATA = """
import datasets
def load(**kwargs):
    return {"test": datasets.Dataset.from_list([{"question": f"What is number {i}?"} for i in range(10)])}
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    monkeypatch.setenv("RETAIN_JUDGE_API_KEY", KEY)
    with serving() as judge:
        yield judge


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ScoreConfig:
    folder = tmp_path_factory.mktemp("asked")
    (folder / "asked.yaml").write_text(YAML)
    (folder / "data.py").write_text(DATA)
    return ScoreConfig(tasks=[TaskSpec(name="asked")], include_path=[str(folder)], target=TargetConfig(metric="none"))


@pytest.fixture(scope="session")
def write(settings: ScoreConfig) -> Callable[..., Path]:
    """write(folder, answers) → a scoring of the ten questions with these answers."""
    [leaf] = tasks.load(settings)
    docs = [(leaf.doc_id(number), tasks.doc_hash(doc)) for number, doc in leaf.docs()]

    def make(folder: Path, answers: list[str]) -> Path:
        common = {"task": "asked", "task_version": "1.0", "stratum": "", "metric": "exact_match", "higher_is_better": True, "value": 0.0, "chance": 0.0}  # fmt: skip
        rows = [
            {**common, "doc_id": doc_id, "doc_hash": sha, "cluster": sha, "p_gold": float("nan"), "output": answer, "gold": "", "truncated": False}
            for (doc_id, sha), answer in zip(docs, answers, strict=True)
        ]  # fmt: skip
        facts = {"version": "1.0", "num_fewshot": 0, "fewshot_seed": 0, "metric": "exact_match", "n": 10, "mean": 0.0, "chance": 0.0, "metrics": {"exact_match": 0.0}}  # fmt: skip
        write_scores(folder, rows, {"model_digest": folder.name, "config": settings.as_parameter(), "tasks": {"asked": facts}})  # fmt: skip
        return folder

    return make
