"""The shipped suite: size, clusters, shape, balance, token bound, and that lm-eval reads it without a network."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retain.score.tasks import CORE

TASKS = ["facts", "grammar", "physical", "stories", "words"]
# A word or punctuation mark is at most two tokens of a 49k vocabulary here (measured: 1.1); 60 is the bound in tokens.
PIECE = re.compile(r"\w+|[^\w\s]")
LONGEST_PIECES = 30


def rows(task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CORE / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def loaded() -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(CORE), include_defaults=False).load(["core"])


def test_every_file_of_items_has_its_task() -> None:
    assert sorted(path.stem for path in CORE.glob("*.jsonl")) == TASKS
    assert sorted(path.stem for path in CORE.glob("core_*.yaml")) == [f"core_{task}" for task in TASKS]


@pytest.mark.parametrize("task", TASKS)
def test_items_are_many_and_spread_over_clusters(task: str) -> None:
    sizes = Counter(row["cluster"] for row in rows(task))
    assert sum(sizes.values()) >= 400
    assert len(sizes) >= 100
    assert max(sizes.values()) <= 4


@pytest.mark.parametrize("task", TASKS)
def test_items_are_well_formed_and_short(task: str) -> None:
    for row in rows(task):
        assert set(row) == {"id", "cluster", "query", "choices", "gold"}, row
        assert row["id"].startswith(f"{row['cluster']}-"), row
        assert 2 <= len(row["choices"]) <= 4, row
        assert row["gold"] in range(len(row["choices"])), row
        assert all(_tidy(text) for text in [row["query"], *row["choices"]]), row
        assert _pieces(row["query"]) + max(map(_pieces, row["choices"])) <= LONGEST_PIECES, row


@pytest.mark.parametrize("task", TASKS)
def test_neither_place_nor_length_gives_the_answer_away(task: str) -> None:
    """Gold stands in each place equally often, and is the longest or the shortest choice about as often as chance says."""
    items = rows(task)
    for n in {len(row["choices"]) for row in items}:
        golds = Counter(row["gold"] for row in items if len(row["choices"]) == n)
        assert max(golds.values()) - min(golds[place] for place in range(n)) <= 1
    chance = sum(1 / len(row["choices"]) for row in items) / len(items)
    for extreme in (max, min):
        hits = sum(_share_of_gold(row, extreme) for row in items) / len(items)
        assert abs(hits - chance) < 0.08


def test_no_item_stands_twice() -> None:
    items = list(_everything())
    assert len({row["id"] for row in items}) == len(items)
    assert len({(row["query"], tuple(sorted(row["choices"]))) for row in items}) == len(items)
    assert all(len(set(row["choices"])) == len(row["choices"]) for row in items)
    clusters = {(row["cluster"], task) for task in TASKS for row in rows(task)}
    assert len({cluster for cluster, _ in clusters}) == len(clusters)


def test_loads_through_lm_eval_from_anywhere(loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(loaded["groups"]) == ["core"]
    assert sorted(loaded["tasks"]) == [f"core_{task}" for task in TASKS]
    for task in TASKS:
        ready = loaded["tasks"][f"core_{task}"]
        assert (ready.VERSION, ready.OUTPUT_TYPE) == (1.0, "multiple_choice")
        assert next(iter(ready.higher_is_better())) == "acc"
        assert list(ready.test_docs()) == rows(task)


def test_requests_are_the_query_and_each_choice(loaded: Any) -> None:
    task, row = loaded["tasks"]["core_grammar"], rows("grammar")[0]
    task.set_config(key="num_fewshot", value=0)
    task.build_all_requests(limit=1)
    assert [request.args for request in task.instances] == [(row["query"], f" {choice}") for choice in row["choices"]]


def test_the_tag_names_the_tasks_one_by_one() -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(CORE), include_defaults=False)
    assert sorted(manager.load(["core_tasks"])["tasks"]) == [f"core_{task}" for task in TASKS]


def _everything() -> Iterator[dict[str, Any]]:
    for task in TASKS:
        yield from rows(task)


def _tidy(text: str) -> bool:
    return bool(text) and text == " ".join(text.split())


def _pieces(text: str) -> int:
    return len(PIECE.findall(text))


def _share_of_gold(row: dict[str, Any], extreme: Any) -> float:
    """1 where the gold choice alone has the extreme length, a share where several do, else 0."""
    lengths = [len(choice) for choice in row["choices"]]
    at = [place for place, length in enumerate(lengths) if length == extreme(lengths)]
    return (row["gold"] in at) / len(at)
