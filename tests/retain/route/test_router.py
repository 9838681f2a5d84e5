"""The router alone: it tells domains apart, obeys tags, leaves general prompts to the base, and is the same when loaded."""

from pathlib import Path

import pytest

from retain.errors import ConfigError, IntegrityError
from retain.route import prompts, router
from retain.route.config import RouteConfig

WORDS = {
    "billing": ("invoice", "refund", "charge", "payment", "card", "price"),
    "delivery": ("parcel", "courier", "tracking", "doorstep", "late", "van"),
    "base": ("poem", "weather", "history", "planet", "music", "river"),
}


def rows(start: int, count: int) -> tuple[list[str], list[str]]:
    made = [
        (f"please tell me of the {words[i % 6]} and the {words[(i * 5 + 1) % 6]} number {i}", name)
        for name, words in WORDS.items()
        for i in range(start, start + count)
    ]
    return [text for text, _ in made], [name for _, name in made]


@pytest.fixture(scope="module")
def trained() -> router.Router:
    return router.train(RouteConfig(), *rows(0, 30))


def test_new_prompts_find_their_domain(trained: router.Router) -> None:
    texts, names = rows(100, 12)
    assert [choice.adapter for choice in trained.choose(texts)] == names
    assert trained.probabilities(texts).sum(1) == pytest.approx(1.0)


def test_a_tag_is_obeyed_and_two_tags_are_none(trained: router.Router) -> None:
    (choice,) = trained.choose(["[delivery] a poem about an invoice"])
    assert (choice.adapter, choice.confidence, choice.by_tag) == ("delivery", 1.0, True)
    (choice,) = trained.choose(["[delivery] [billing] refund of a payment by card, invoice, price"])
    assert (choice.adapter, choice.by_tag) == ("billing", False)
    untagged = router.train(RouteConfig(tag=""), *rows(0, 30))
    assert untagged.choose(["[delivery] poem weather history planet music"])[0].adapter == "base"


def test_an_unsure_choice_goes_to_the_base(trained: router.Router) -> None:
    careful = router.train(RouteConfig(min_confidence=0.99), *rows(0, 30))
    unsure = "the refund of a late parcel"
    assert careful.choose([unsure])[0].adapter == "base"
    assert trained.choose([unsure])[0].confidence < 0.99


def test_every_setting_changes_the_router() -> None:
    usual = router.train(RouteConfig(), *rows(0, 30))
    other = {"longest_ngram": 2, "max_features": 100, "inverse_penalty": 0.01}
    for name, value in other.items():
        changed = router.train(RouteConfig(**{name: value}), *rows(0, 30))
        assert (changed.weights.shape, changed.weights.sum()) != (usual.weights.shape, usual.weights.sum()) or (
            abs(changed.weights).max() < abs(usual.weights).max()
        ), name


def test_it_is_the_same_after_saving_and_refuses_changed_arrays(trained: router.Router, tmp_path: Path) -> None:
    texts, _ = rows(200, 5)
    assert trained.save(tmp_path) == trained.save(tmp_path / "again")
    assert (router.load(tmp_path).probabilities(texts) == trained.probabilities(texts)).all()
    (tmp_path / "router.npz").write_bytes(b"x" + (tmp_path / "router.npz").read_bytes())
    with pytest.raises(IntegrityError, match="arrays were changed"):
        router.load(tmp_path)


def test_two_classes_and_one() -> None:
    texts, names = rows(0, 20)
    two = [(text, name) for text, name in zip(texts, names, strict=True) if name != "base"]
    made = router.train(RouteConfig(), [text for text, _ in two], [name for _, name in two])
    assert [choice.adapter for choice in made.choose(["invoice refund payment", "parcel courier van"])] == ["billing", "delivery"]  # fmt: skip
    with pytest.raises(ConfigError, match="nothing to route between"):
        router.train(RouteConfig(), texts[:5], names[:5])


def test_what_a_router_sees_of_a_row() -> None:
    chat = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"text": "hello"}]}, {"role": "assistant", "content": "no"}]}  # fmt: skip
    assert prompts.text("messages", chat) == "hello"
    assert prompts.text("prompt_completion", {"prompt": "p", "completion": "c"}) == "p"
    assert prompts.text("prompt_completion", {"prompt": chat["messages"], "completion": "c"}) == "hello"
    assert prompts.text("text", {"text": "t" * 3000}) == "t" * 2000
