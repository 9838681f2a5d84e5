"""The routed system: measured on test rows, composed item by item, written down to be served."""

import json
from pathlib import Path
from typing import Any

import pytest

from retain.artifacts import read_scores, write_rows, write_scores
from retain.errors import ConfigError, IntegrityError
from retain.route.config import RouteConfig
from retain.route.work import route
from retain.score.config import ScoreConfig, TaskSpec

WORDS = {
    "north": ("invoice", "refund", "card"),
    "south": ("parcel", "courier", "van"),
    "general": ("poem", "river", "music"),
}
TESTS = 20


def prompt(name: str, i: int) -> str:
    words = WORDS[name]
    return f"about {words[i % 3]} and {words[(i + 1) % 3]} {i}"


def row(name: str, i: int, split: str) -> dict[str, Any]:
    part = "replay" if name == "general" else "target"
    chat = {"messages": [{"role": "user", "content": prompt(name, i)}, {"role": "assistant", "content": "yes"}]}
    return {"id": f"{name}-{split}-{i}", "source": f"{name}#2" if split == "test" else name, "part": part, "split": split, "shape": "messages", "weight": 1.0, "payload": json.dumps(chat)}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    """A dataset of two domains, one small benchmark, two adapters' cards, and scores: each adapter knows its own domain."""
    rows = [row(name, i, "train") for name in WORDS for i in range(30)]
    rows += [row(name, i, "test") for name in ("north", "south") for i in range(100, 100 + TESTS)]
    write_rows(tmp_path / "dataset", "retain.dataset/1", rows)
    bench = [{"query": prompt("general", i), "choices": ["a", "b"], "gold": 0} for i in range(10)]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(item) + "\n" for item in bench))
    (tmp_path / "bench.yaml").write_text(
        f"task: bench\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'bench.jsonl'}}}}}\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{query}}"\ndoc_to_choice: choices\ndoc_to_target: gold\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\nmetadata: {version: 1}\n'
    )
    for name in ("north", "south"):
        (tmp_path / name).mkdir()
        card = {"schema": "retain.adapter/1", "adapter_digest": f"sha256:{name}", "base_digest": "sha256:base"}
        (tmp_path / name / "retain.json").write_text(json.dumps(card))
        (tmp_path / name / "adapter_config.json").write_text("{}")
        scores(tmp_path / f"s-{name}", name)
    scores(tmp_path / "s-base", "base")
    both = ("north", "south")
    return {
        "config": RouteConfig(), "score": ScoreConfig(tasks=[TaskSpec(name=str(tmp_path / "bench.yaml"))]), "dataset": tmp_path / "dataset",
        "adapters": {name: tmp_path / name for name in both}, "base_scores": tmp_path / "s-base",
        "scores": {name: tmp_path / f"s-{name}" for name in both}, "out": tmp_path / "out", "routed": tmp_path / "routed",
    }  # fmt: skip


def scores(folder: Path, model: str, items: int = 10) -> None:
    """Adapters answer their own domain's rows, and half of the benchmark; the base answers all of the benchmark."""
    target = [item("target", f"{name}-test-{i}", "exact_match", float(model == name)) for name in ("north", "south") for i in range(100, 100 + TESTS)]  # fmt: skip
    bench = [item("bench", str(i), "acc", float(model == "base" or i % 2 == 0)) for i in range(items)]
    tasks = {
        "target": {"metric": "exact_match", "metrics": {"exact_match": 0.0}, "n": 2 * TESTS, "mean": 0.0, "version": "1", "truncated": 0},
        "bench": {"metric": "acc", "metrics": {"acc": 0.0}, "n": items, "mean": 0.0, "version": "1", "truncated": 0},
    }  # fmt: skip
    write_scores(folder, [*target, *bench], {"role": "base", "model_digest": f"sha256:{model}", "tokenizer_digest": "t", "template_digest": "c", "tasks": tasks})  # fmt: skip


def item(task: str, doc: str, metric: str, value: float) -> dict[str, Any]:
    return {
        "task": task, "task_version": "1", "doc_id": doc, "doc_hash": f"{task}{doc}", "cluster": doc, "stratum": "", "metric": metric,
        "higher_is_better": True, "value": value, "chance": 0.0, "p_gold": 0.5, "output": "", "gold": "", "truncated": False,
    }  # fmt: skip


def test_routing_is_measured_and_the_composed_scores_are_what_is_served(world: dict[str, Any]) -> None:
    found = route(**world)
    assert (found.accuracy, found.majority) == (1.0, 0.5)
    assert found.general_to_base == 1.0
    assert found.confusion == {"north>north": TESTS, "south>south": TESTS}
    north = found.domains["north"]
    assert (north.base, north.own_adapter, north.routed, north.gain_points) == (0.0, 1.0, 1.0, 100.0)
    table, meta = read_scores(world["routed"])
    assert {name: facts["mean"] for name, facts in meta["tasks"].items()} == {"target": 1.0, "bench": 1.0}
    assert (meta["model_digest"], meta["role"]) == (found.model_digest, "candidate")
    assert table.num_rows == 2 * TESTS + 10


def test_the_manifest_serves_them(world: dict[str, Any]) -> None:
    found = route(**world)
    card = json.loads((world["out"] / "routes.json").read_text())
    assert card["schema"] == "retain.routes/1"
    assert card["adapters"]["south"]["digest"] == "sha256:south"
    assert card["vllm_arguments"][-2:] == ["north=/models/north", "south=/models/south"]
    assert card["measured"]["accuracy"] == found.accuracy
    assert card["measured"]["scored_models"]["north"] == "sha256:north"
    again = route(**world)
    assert again == found


def test_without_a_base_class_to_fall_back_on_the_tag_decides(world: dict[str, Any]) -> None:
    """A router that trusts nothing sends all to the base: no gain, and nothing forgotten."""
    found = route(**{**world, "config": RouteConfig(min_confidence=0.999)})
    assert found.general_to_base == 1.0
    assert found.accuracy < 1.0
    assert found.domains["north"].gain_points < 100.0


@pytest.mark.parametrize("missing", ["adapters", "scores"])
def test_every_domain_needs_its_adapter_and_its_scores(world: dict[str, Any], missing: str) -> None:
    with pytest.raises(ConfigError, match="one for each domain"):
        route(**{**world, missing: {"north": world[missing]["north"]}})


def test_adapters_of_another_base_and_scores_of_other_items_are_refused(world: dict[str, Any], tmp_path: Path) -> None:
    scores(tmp_path / "short", "south", items=9)
    with pytest.raises(IntegrityError, match="different items"):
        route(**{**world, "scores": {**world["scores"], "south": tmp_path / "short"}})
    other = {"schema": "retain.adapter/1", "adapter_digest": "sha256:south", "base_digest": "sha256:other"}
    (tmp_path / "south" / "retain.json").write_text(json.dumps(other))
    with pytest.raises(IntegrityError, match="different bases"):
        route(**world)
    (tmp_path / "south" / "adapter_config.json").unlink()
    with pytest.raises(ConfigError, match="'south' is no adapter"):
        route(**world)
