"""Scoring in the order of a gate's looks, on a tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain.artifacts import read_scores
from retain.config import parse
from retain.errors import ConfigError
from retain.gate.pairs import join
from retain.gate.split import in_look
from retain.score.config import ScoreConfig, TargetConfig, TaskSpec
from retain.score.run import Run
from retain.score.work import score


@pytest.fixture
def config(tiny_tasks: Path) -> Callable[..., ScoreConfig]:
    """config(rounds) → two benchmarks and a group over the same items, with shots, and the target."""

    def build(rounds: int, seed: int = 5) -> ScoreConfig:
        tasks = [TaskSpec(name="tiny_choice", num_fewshot=2), TaskSpec(name="tiny_group")]
        return ScoreConfig(
            tasks=tasks, include_path=[str(tiny_tasks)], dtype="fp32", rounds=rounds, rounds_seed=seed,
            target=TargetConfig(metric="exact_match", max_new_tokens=2),
        )  # type: ignore[arg-type]  # fmt: skip

    return build


def test_four_rounds_ask_every_item_once_and_give_the_same_numbers(
    config: Any, tiny_llama: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    for rounds in (1, 4):
        score(config(rounds), tiny_llama, tmp_path / str(rounds), dataset=tiny_dataset)
    whole, parts = (read_scores(tmp_path / name) for name in "14")
    assert parts[1]["rounds"] == {"of": 4, "done": 4, "seed": 5, "items_left": 0}
    assert whole[0].num_rows == parts[0].num_rows
    for pairs in join(whole, parts):
        assert (pairs.base == pairs.tuned).all()
        assert pairs.p_base == pytest.approx(pairs.p_tuned, abs=1e-5)


def test_it_ends_when_the_rule_has_decided(config: Any, tiny_llama: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    asked = []

    def decided(look: int, so_far: Any) -> bool:
        asked.append((look, so_far[1]["tasks"]["tiny_choice"]["n"], so_far[1]["rounds"]["done"]))
        return look == 2

    result = score(config(4), tiny_llama, tmp_path / "some", dataset=tiny_dataset, decided=decided)
    table, meta = read_scores(tmp_path / "some")
    assert [look for look, *_ in asked] == [1, 2] == [done for *_, done in asked]
    assert asked[0][1] < asked[1][1] == meta["tasks"]["tiny_choice"]["n"]
    assert meta["rounds"]["done"] == 2
    assert result.left == meta["rounds"]["items_left"] > 0
    score(config(4), tiny_llama, tmp_path / "all", dataset=tiny_dataset)
    everything, _ = read_scores(tmp_path / "all")
    rows = [row for row in everything.to_pylist() if row["task"] == "tiny_choice" and row["metric"] == "acc"]
    wanted = {row["doc_id"] for row, first in zip(rows, in_look(5, "tiny_choice", tuple(r["cluster"] for r in rows), 2, 4), strict=True) if first}  # fmt: skip
    assert {row["doc_id"] for row in table.to_pylist() if row["task"] == "tiny_choice"} == wanted


def test_a_round_has_a_key_of_its_own_whatever_came_before(config: Any, tiny_llama: Path, tmp_path: Path) -> None:
    """So a candidate that ended early and a baseline that did not were scored in the same batches."""
    rounds = Run(config(4), tiny_llama, "candidate").rounds(None)
    keys = [job.key["items"] for jobs in rounds for job in jobs]
    assert len(rounds) == 4
    assert len(set(keys)) == len(keys)
    assert sum(job.items for jobs in rounds for job in jobs) == sum(job.items for job in Run(config(1), tiny_llama, "candidate").rounds(None)[0])  # fmt: skip
    others = (Run(config(4, seed=seed), tiny_llama, "candidate").rounds(None) for seed in (6, 7, 8, 9))
    assert any([job.key["items"] for jobs in other for job in jobs] != keys for other in others)
    cache = tmp_path / "cache"
    score(config(4), tiny_llama, tmp_path / "first", cache=cache, decided=lambda look, scores: True)
    again = score(config(4), tiny_llama, tmp_path / "second", cache=cache, decided=lambda look, scores: look == 2)
    assert again.left > 0
    assert len(list(cache.glob("*.json"))) == sum(len(jobs) for jobs in rounds[:2])


def test_macro_f1_is_not_taken_apart() -> None:
    settings = {"target": {"metric": "macro_f1"}, "rounds": 4}
    with pytest.raises(ConfigError, match="all test rows together"):
        parse(ScoreConfig, settings, where="score")
    assert parse(ScoreConfig, {**settings, "rounds": 1}, where="score").rounds == 1
