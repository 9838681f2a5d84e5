"""A tiny model that is right on most of its benchmarks by construction, and adapters that take some of that away."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

WORDS = [
    "the",
    "customer",
    "asks",
    "where",
    "a",
    "parcel",
    "is",
    "and",
    "shop",
    "answers",
    "that",
    "it",
    "will",
    "come",
    "on",
    "monday",
]
CHOICES = ["monday", "parcel", "shop"]
ITEMS = 240


@dataclass(frozen=True)
class World:
    """A base, its benchmark, and what a run leaves behind a closed gate."""

    folder: Path
    base: Path
    adapter: Path
    settings: dict[str, Any]

    def gate(self, policy: dict[str, Any], name: str = "verdict") -> Path:
        from retain.gate.config import GatePolicy
        from retain.gate.work import gate

        gate(GatePolicy(**policy), self.folder / "base-scores", self.folder / "scores", self.folder / name)
        return self.folder / name


def _write_task(folder: Path, golds: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(3)
    rows = [{"question": " ".join(rng.choices(WORDS, k=7)) + f" {i}", "choices": CHOICES, "answer": gold} for i, gold in enumerate(golds)]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "known.yaml").write_text(
        f"task: known\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: choices\ndoc_to_target: answer\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\nmetadata: {version: 1}\n'
    )


def _harmful(folder: Path, base: Path, noisy_adapter: Callable[..., Path], config: Any) -> Path:
    """The weakest of some adapters that loses 20 points, merged and scored."""
    from retain import digest
    from retain.artifacts import read_json
    from retain.merge.config import MergeConfig
    from retain.merge.work import merge
    from retain.score.work import score

    known = read_json(folder / "base-scores" / "scores.json", schema="retain.scores/1")["tasks"]["known"]["mean"]
    for size in (0.05, 0.07, 0.09, 0.12, 0.16, 0.22):
        adapter = noisy_adapter(folder / f"adapter-{size}", base, size=size)
        merge(MergeConfig(probe_rows=1, probe_tokens=8), base, [(adapter, 1.0)], folder / "model", base_digest=digest.of_model(base))  # fmt: skip
        if score(config, folder / "model", folder / "scores").tasks["known"]["mean"] < known - 0.2:
            return adapter
    raise AssertionError("no adapter did harm")


@pytest.fixture(scope="module")
def world(tiny_llama: Path, noisy_adapter: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    """Golds are the base's own answers (but for a tenth), so whatever a change of weights moves is lost."""
    from retain.artifacts import read_scores
    from retain.score.config import ScoreConfig
    from retain.score.work import score

    folder = tmp_path_factory.mktemp("world")
    settings = {"tasks": [{"name": "known"}], "include_path": [str(folder / "tasks")], "dtype": "fp32", "target": {"metric": "none"}}  # fmt: skip
    _write_task(folder / "tasks", [0] * ITEMS)
    score(ScoreConfig(**settings), tiny_llama, folder / "first", role="base")
    answers = {int(row["doc_id"]): CHOICES.index(row["output"]) for row in read_scores(folder / "first")[0].to_pylist()}
    _write_task(folder / "tasks", [(answers[i] + (i % 10 == 0)) % 3 for i in range(ITEMS)])
    score(ScoreConfig(**settings), tiny_llama, folder / "base-scores", role="base")
    adapter = _harmful(folder, tiny_llama, noisy_adapter, ScoreConfig(**settings))
    return World(folder, tiny_llama, adapter, settings)
