"""The target metric of rows that judge answers: which of two answers the model finds likelier."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retain import models
from retain.artifacts import read_scores, write_rows
from retain.chat import render
from retain.errors import DataRefused
from retain.score.config import Metric, ScoreConfig, TargetConfig
from retain.score.work import score

ANSWERS = ("it will come on monday.", "please send an invoice", "the shop answers")


@pytest.fixture
def judged(tmp_path: Path) -> Callable[[str], Path]:
    def make(shape: str) -> Path:
        rows = []
        for i in range(6):
            first, second = ANSWERS[i % 3], ANSWERS[(i + 1) % 3]
            payload: dict[str, Any] = {"prompt": f"where is parcel {i}?", "chosen": first, "rejected": second}
            if shape == "kto":
                payload = {"prompt": payload["prompt"], "completion": first, "label": True}
            rows.append({"id": f"r{i}", "source": "judged", "part": "target", "split": "test", "shape": shape, "weight": 1.0, "payload": json.dumps(payload)})  # fmt: skip
        write_rows(tmp_path / shape, "retain.dataset/1", rows)
        return tmp_path / shape

    return make


def settings(metric: Metric) -> ScoreConfig:
    return ScoreConfig(dtype="fp32", target=TargetConfig(metric=metric))


def test_the_likelier_answer_of_a_pair(judged: Callable[[str], Path], tiny_llama: Path, tmp_path: Path) -> None:
    dataset = judged("preference")
    score(settings("preference_accuracy"), tiny_llama, tmp_path / "scores", dataset=dataset)
    got = {row["doc_id"]: row for row in read_scores(tmp_path / "scores")[0].to_pylist()}
    model, tokenizer = models.load_model(tiny_llama, dtype="fp32"), models.load_tokenizer(tiny_llama)

    def loss(prompt: str, answer: str) -> float:
        one = render(tokenizer, "prompt_completion", {"prompt": prompt, "completion": answer})
        with torch.no_grad():
            return float(model(input_ids=torch.tensor([one.input_ids]), labels=torch.tensor([one.labels])).loss)

    wins = {}
    for i in range(6):
        prompt, chosen, rejected = f"where is parcel {i}?", ANSWERS[i % 3], ANSWERS[(i + 1) % 3]
        wins[f"r{i}"] = float(loss(prompt, chosen) < loss(prompt, rejected))
    assert {name: row["value"] for name, row in got.items()} == wins
    assert set(wins.values()) == {0.0, 1.0}
    assert {row["chance"] for row in got.values()} == {0.5}


@pytest.mark.parametrize(
    ("shape", "metric"), [("preference", "exact_match"), ("kto", "token_loss"), ("kto", "preference_accuracy")]
)
def test_a_metric_that_does_not_fit_is_refused(shape: str, metric: Any, judged: Callable[[str], Path], tiny_llama: Path, tmp_path: Path) -> None:  # fmt: skip
    with pytest.raises(DataRefused, match="target row r0"):
        score(settings(metric), tiny_llama, tmp_path / "scores", dataset=judged(shape))
