"""Domains by the names of the target sources, and their weights."""

from typing import Any

import pytest

from retain.divide.work import divide, domains, weights
from retain.errors import ConfigError
from retain.take.component import take as face
from retain.take.work import PARTS, take


def source(name: str, part: str = "target", split: str = "train") -> dict[str, Any]:
    return {"name": name, "part": part, "split": split, "path": f"{name}-{split}.jsonl"}


BOTH = [source("south"), source("north"), source("north", split="test"), source("general", "replay")]


def test_each_domain_gets_its_own_target_rows_and_all_general_ones() -> None:
    entries = divide(BOTH, {"base": {"uri": "b"}, "train": {"seed": 1}})
    assert [entry["domain"] for entry in entries] == ["north", "south"]
    assert [(s["name"], s["split"]) for s in entries[0]["sources"]] == [("north", "train"), ("north", "test"), ("general", "train")]  # fmt: skip
    assert [s["name"] for s in entries[1]["sources"]] == ["south", "general"]
    assert entries[0]["train"] == entries[1]["train"] == {"seed": 1}


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ([source("north")], "no choice of domains"),
        ([source("north"), source("")], "without a name"),
        ([*BOTH, source("nort", split="test")], "did you mean 'north'"),
    ],
)
def test_what_is_no_choice_of_domains(sources: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        domains(sources)


def test_weights() -> None:
    names = ["north", "south"]
    assert weights("", names) == {"north": 0.5, "south": 0.5}
    assert weights(" south=0.2, north = 0.9", names) == {"south": 0.2, "north": 0.9}


@pytest.mark.parametrize("text", ["nort=1, south=1", "north=1", "north=0, south=1", "north=x, south=1", "north", "north=3, south=1"])  # fmt: skip
def test_wrong_weights(text: str) -> None:
    with pytest.raises(ConfigError, match="merge_weights"):
        weights(text, ["north", "south"])


def test_an_entry_is_taken_apart_as_the_face_names_its_outputs() -> None:
    entry = {**dict.fromkeys(PARTS, None), "domain": "north", "sources": [1]}
    assert take(entry)[:3] == ("north", None, [1])
    assert set(face.component_spec.outputs) == set(PARTS)
