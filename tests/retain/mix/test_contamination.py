from dataclasses import dataclass

import pytest

from retain.mix.config import DecontaminationConfig
from retain.mix.contamination import Hit, ItemIndex, words


@dataclass(frozen=True)
class Item:
    task: str
    doc_id: str
    text: str


QUESTION = "A student drops a feather and a stone on the moon at the same moment from the same height and sees what"
ITEMS = [
    Item("science", "0", f"Question: {QUESTION}\nboth land together\nthe stone lands first"),
    Item("science", "1", "Which gas do green plants take in?\noxygen\ncarbon dioxide"),
    Item("tiny", "0", "seven"),
    Item("chinese", "0", "月球上没有空气所以羽毛和石头会同时落地这是物理"),
    Item(
        "other",
        "0",
        "When bread is left in a warm and damp kitchen for a week, the green spots that grow on it are most likely a kind of mould",
    ),
]


def find(text: str, items: list[Item] = ITEMS, **settings: object) -> Hit | None:
    return ItemIndex(items, DecontaminationConfig(**settings)).find(text)  # type: ignore[arg-type]


def test_words_are_compared_without_case_marks_or_width() -> None:
    assert words("Ｗhich — GAS, do\n“plants”?") == ["which", "gas", "do", "plants"]


def test_thirteen_words_in_common_are_a_hit_and_twelve_are_not() -> None:
    run = QUESTION.split()[2:15]
    hit = find("An essay. " + " ".join(run).upper() + ", he wrote.")
    assert hit is not None
    assert (hit.task, hit.doc_id, hit.method, hit.evidence) == ("science", "0", "ngram", " ".join(run).lower())
    assert find("An essay. " + " ".join(run[:12]) + ", he wrote.") is None
    assert find("An essay. " + " ".join(run[:12]) + ", he wrote.", ngram_words=12) is not None


def test_a_short_item_is_matched_whole() -> None:
    assert find("He asked: which gas do green plants take in? Oxygen? Carbon dioxide?") == Hit("science", "1", ITEMS[1].text, "whole", "which gas do green plants take in oxygen carbon dioxide")  # fmt: skip
    assert find("He asked: which gas do red plants take in? Oxygen, and so on.") is None


def test_a_tiny_item_counts_only_as_a_line_of_its_own() -> None:
    assert find("there were seven of them") is None
    hit = find("How many?\nSeven.")
    assert hit is not None
    assert hit.task == "tiny"
    assert find("How many?\nSeven.", short_words=1) is not None


def test_a_short_line_of_an_item_counts_where_it_is_a_whole_line() -> None:
    hit = find("which gas do green plants take in\nThey take in carbon dioxide.")
    assert hit is not None
    assert (hit.task, hit.method) == ("science", "whole")
    assert find("Tell me which gas do green plants take in, dear\nThey take in carbon dioxide.", jaccard=0.9) is None


def test_scripts_without_spaces_are_compared_by_character() -> None:
    hit = find("他说月球上没有空气所以羽毛和石头会同时落地了")
    assert hit is not None
    assert hit.task == "chinese"


def test_a_near_copy_is_found_by_minhash_and_settled_by_jaccard() -> None:
    near = "When bread is left in a warm and damp kitchen for two weeks, the green spots that grow on it are most likely a kind of mould"
    hit = find(near, ngram_words=30)
    assert hit is not None
    assert (hit.task, hit.method) == ("other", "minhash")
    assert 0.6 <= float(hit.evidence.removeprefix("Jaccard ")) < 1
    assert find(near, ngram_words=30, jaccard=0.95) is None


def test_a_near_copy_of_one_line_of_an_item_is_found() -> None:
    hit = find("please help\n" + QUESTION.replace("student", "teacher") + " happens\nthanks", ngram_words=40)
    assert hit is not None
    assert (hit.task, hit.method) == ("science", "minhash")


def test_words_that_stand_in_many_items_prove_nothing() -> None:
    form = "Read the passage and answer the question below with one of the two words yes or no."
    items = [
        Item("form", str(i), f"{form}\nIs {name} a thing that one may eat at {name}?")
        for i, name in enumerate("abcdefghijklmnop")
    ]
    assert find(form, items) is None
    assert find(form, items, common_items=100) is None  # a quarter of the task, at most
    assert find(f"{form} Is d a thing that one may eat at d?", items) is not None


@pytest.mark.parametrize("text", ["", "\n\n", "!!!"])
def test_rows_without_words_hold_nothing(text: str) -> None:
    assert find(text) is None
    assert find("anything at all", []) is None
