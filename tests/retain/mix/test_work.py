import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retain import artifacts
from retain.config import parse
from retain.errors import ConfigError, DataRefused
from retain.mix.config import MixConfig
from retain.mix.work import MixResult, mix
from retain.template.texts import TextWriter

LONG = "the gate asks about the parcel that was lost on monday between the shop and the house of the customer"


@dataclass(frozen=True)
class Item:
    task: str
    doc_id: str
    text: str


def row(name: str, tokens: int, part: str = "target", split: str = "train", source: str = "") -> dict[str, Any]:
    ids = list(range(1, tokens + 1))
    return {
        "id": name,
        "source": source or part,
        "part": part,
        "split": split,
        "weight": 1.0,
        "input_ids": ids,
        "labels": [-100, *ids[1:]],
        "n_supervised": tokens - 1,
    }


def many(count: int, part: str, **more: Any) -> list[dict[str, Any]]:
    lengths = np.random.default_rng(len(part)).integers(20, 200, count)
    return [
        row(f"{more.get('source', part)}{i}{more.get('split', '')}", int(n), part, **more)
        for i, n in enumerate(lengths)
    ]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    def write(
        rows: list[dict[str, Any]], texts: dict[str, str] | None = None, weights: dict[str, float] | None = None
    ) -> Path:
        folder = tmp_path / "rendered"
        facts = {"template_digest": "t", "tokenizer_digest": "k", "options": {}, "source_weights": weights or {}}
        artifacts.write_rows(folder, "retain.rendered/1", rows, **facts)
        writer = TextWriter(folder)
        writer.add([{"id": r["id"], "text": (texts or {}).get(r["id"], f"words of {r['id']}")} for r in rows])
        writer.close()
        return folder

    return write


def run(rendered: Path, items: list[Item] | None = None, **settings: Any) -> MixResult:
    folder = rendered.parent
    return mix(MixConfig(**settings), rendered, items or [], folder / "mixture", folder / "mix.html")  # type: ignore[arg-type]


def mixture(rendered: Path, split: str = "train") -> list[dict[str, Any]]:
    return [r for r in artifacts.read_rows(rendered.parent / "mixture", "retain.mixture/1") if r["split"] == split]


def tokens(rows: list[dict[str, Any]], part: str = "") -> int:
    return sum(len(r["input_ids"]) for r in rows if part in ("", r["part"]))


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_replay_makes_its_share_of_the_tokens(make: Callable[..., Path], share: float) -> None:
    rendered = make(many(300, "target") + many(300, "replay"))
    result = run(rendered, share=share)
    rows = mixture(rendered)
    assert tokens(rows, "replay") / tokens(rows) == pytest.approx(share, abs=0.5 * 10 / tokens(rows))
    assert (result.replay_share, result.tokens, result.rows) == (
        tokens(rows, "replay") / tokens(rows),
        tokens(rows),
        len(rows),
    )
    assert (
        artifacts.read_info(rendered.parent / "mixture", "retain.mixture/1")["achieved"]["replay"]
        == result.replay_share
    )
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    for half in halves:
        assert tokens(half, "replay") / tokens(half) == pytest.approx(share, abs=0.02)


def test_all_target_rows_are_there_once_whatever_the_replay(make: Callable[..., Path]) -> None:
    rendered = make(many(100, "target") + many(5, "target", split="validation") + many(50, "replay"))
    run(rendered)
    ids = [r["id"] for r in mixture(rendered) if r["part"] == "target"]
    assert sorted(ids) == sorted(f"target{i}" for i in range(100))
    assert ids != [f"target{i}" for i in range(100)]


def test_share_zero_takes_no_replay_but_keeps_rows_for_the_retention_loss(make: Callable[..., Path]) -> None:
    rendered = make(many(50, "target") + many(40, "replay"))
    result = run(rendered, share=0)
    assert (result.replay_tokens, result.replay_validation_rows) == (0, 4)


def test_safety_rows_have_a_share_of_their_own(make: Callable[..., Path]) -> None:
    rendered = make(many(200, "target") + many(100, "replay") + many(100, "safety"))
    result = run(rendered, share=0.1, safety_share=0.05)
    assert (result.replay_share, result.safety_share) == (pytest.approx(0.1, abs=0.001), pytest.approx(0.05, abs=0.001))
    with pytest.raises(ConfigError, match="leave nothing"):
        parse(MixConfig, {"share": 0.6, "safety_share": 0.4})


def test_the_seed_decides_rows_and_order(make: Callable[..., Path]) -> None:
    rendered = make(many(60, "target") + many(60, "replay"))
    digests = [run(rendered, seed=seed).digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_too_little_replay_is_refused_accepted_or_repeated(make: Callable[..., Path]) -> None:
    rendered = make(many(200, "target") + many(6, "replay"))
    with pytest.raises(DataRefused, match=r"too few replay rows[\s\S]*generated"):
        run(rendered, share=0.3)
    less = run(rendered, share=0.3, shortfall="accept")
    assert less.replay_share < 0.1
    repeated = run(rendered, share=0.3, shortfall="oversample")
    assert repeated.replay_share == pytest.approx(0.3, abs=0.01)
    rows = mixture(rendered)
    assert len({r["id"] for r in rows}) == len(rows)
    assert any(r["id"].endswith("~2") for r in rows)


def test_no_replay_rows_at_all_is_refused_with_the_way_out(make: Callable[..., Path]) -> None:
    with pytest.raises(DataRefused, match="source: generated"):
        run(make(many(20, "target")), shortfall="oversample")


def test_replay_comes_from_files_or_from_the_base_or_both(make: Callable[..., Path]) -> None:
    rendered = make(many(50, "target") + many(40, "replay", source="dolly") + many(40, "replay", source="generated"))
    for source, expected in (("files", {"dolly"}), ("generated", {"generated"}), ("both", {"dolly", "generated"})):
        run(rendered, share=0.4, source=source)
        rows = mixture(rendered) + mixture(rendered, "validation")
        assert {r["source"] for r in rows if r["part"] == "replay"} == expected


def test_weights_of_sources_act(make: Callable[..., Path]) -> None:
    rows = many(100, "target") + many(100, "replay", source="a") + many(100, "replay", source="b")
    rendered = make(rows, weights={"a": 3.0, "target": 2.0})
    run(rendered, share=0.2)
    shares = {s["source"]: s for s in artifacts.read_info(rendered.parent / "mixture", "retain.mixture/1")["sources"]}
    assert shares["a"]["tokens"] / shares["b"]["tokens"] == pytest.approx(3, rel=0.15)
    assert shares["target"]["repeats"] == shares["target"]["rows"] / 2


def test_validation_rows_of_both_parts(make: Callable[..., Path]) -> None:
    rendered = make(many(100, "target") + many(20, "target", split="validation") + many(100, "replay"))
    result = run(rendered, validation_rows=7, max_validation_rows=15)
    held = mixture(rendered, "validation")
    assert (result.target_validation_rows, result.replay_validation_rows) == (15, 7)
    assert {r["id"] for r in held}.isdisjoint(r["id"] for r in mixture(rendered))
    assert run(rendered, max_validation_rows=0).target_validation_rows == 20


def test_rows_that_hold_an_item_are_dropped_and_listed_with_both_texts(make: Callable[..., Path]) -> None:
    texts = {"target3": f"<b>so</b> {LONG}", "replay4": LONG.upper()}
    rendered = make(many(40, "target") + many(40, "replay"), texts)
    items = [Item("parcels", "7", f"Question: {LONG}?\nyes\nno")]
    result = run(rendered, items, share=0.3)
    assert result.contaminated_rows == 2
    everything = mixture(rendered) + mixture(rendered, "validation")
    assert {"target3", "replay4"}.isdisjoint(r["id"] for r in everything)
    lines = [
        json.loads(line)
        for line in (rendered.parent / "mixture" / "decontamination.jsonl").read_text().split("\n")
        if line
    ]
    assert {(line["id"], line["part"], line["text"], line["item_text"], line["doc_id"]) for line in lines} == {
        ("target3", "target", texts["target3"], items[0].text, "7"), ("replay4", "replay", texts["replay4"], items[0].text, "7"),
    }  # fmt: skip
    page = (rendered.parent / "mix.html").read_text()
    assert "&lt;b&gt;so&lt;/b&gt;" in page
    assert "<b>so</b>" not in page
    facts = artifacts.read_info(rendered.parent / "mixture", "retain.mixture/1")["decontamination"]
    assert (facts["dropped"], facts["items"], facts["by"]["part"]) == (2, 1, {"replay": 1, "target": 1})
    kept = run(rendered, items, share=0.3, decontamination={"enabled": False})
    assert kept.contaminated_rows == 0
    assert "not compared" in (rendered.parent / "mix.html").read_text()


def test_target_rows_that_are_the_benchmark_are_refused(make: Callable[..., Path]) -> None:
    rendered = make(many(10, "target") + many(10, "replay"), {f"target{i}": LONG for i in range(5)})
    items = [Item("parcels", "7", LONG)]
    with pytest.raises(DataRefused, match="5 of 10 rows"):
        run(rendered, items)
    assert run(rendered, items, share=0, decontamination={"max_dropped_share": 0.5}).contaminated_rows == 5
