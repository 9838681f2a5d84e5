"""Adapter on, off and scaled in one loaded model; the gate must not take its scores."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from retain import digest, models
from retain.artifacts import read_scores, write_rows
from retain.digest import canonical_json
from retain.errors import IntegrityError, RetainError
from retain.merge.config import MergeConfig
from retain.score.config import ScoreConfig, TargetConfig, TaskSpec
from retain.score.preview import DIGEST, Preview
from retain.score.signals import general, measure
from retain.score.work import score


@pytest.fixture(scope="module")
def adapter(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    model = get_peft_model(
        models.load_model(tiny_llama, dtype="fp32"),
        LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False),
    )
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(str(folder))
    return folder


def merged(base: Path, adapter: Path, folder: Path) -> Path:
    from peft import PeftModel

    PeftModel.from_pretrained(models.load_model(base, dtype="fp32"), str(adapter)).merge_and_unload().save_pretrained(
        str(folder)
    )
    models.load_tokenizer(base).save_pretrained(str(folder))
    return folder


def p_gold(folder: Path) -> list[float]:
    return [float(value) for value in read_scores(folder)[0].column("p_gold").to_pylist()]


def test_off_is_the_base_and_on_is_the_merge(tiny_llama: Path, tiny_tasks: Path, adapter: Path, tmp_path: Path) -> None:
    config = ScoreConfig(tasks=[TaskSpec(name="tiny_choice")], include_path=[str(tiny_tasks)], dtype="fp32")
    preview = Preview(config, tiny_llama, adapter, cache=tmp_path / "cache")
    on, half = preview.tuned(tmp_path / "on"), preview.tuned(tmp_path / "half", strength=0.5)
    off = preview.base(tmp_path / "off")
    score(config, tiny_llama, tmp_path / "plain")
    score(config, merged(tiny_llama, adapter, tmp_path / "merged"), tmp_path / "candidate")
    assert off.model_digest == digest.of_model(tiny_llama)
    assert on.model_digest == half.model_digest == DIGEST == read_scores(tmp_path / "on")[1]["model_digest"]
    assert p_gold(tmp_path / "off") == p_gold(tmp_path / "plain")
    assert p_gold(tmp_path / "on") == pytest.approx(p_gold(tmp_path / "candidate"), abs=1e-5)
    assert len({tuple(p_gold(tmp_path / name)) for name in ("off", "half", "on")}) == 3
    # The base's scores are those the step itself keeps: found again without computing.
    assert score(config, tiny_llama, tmp_path / "again", cache=tmp_path / "cache", role="base").cached == [
        "tiny_choice"
    ]
    assert preview.tuned(tmp_path / "on").cached == ["tiny_choice"]


def test_a_folder_without_an_adapter(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="no safetensors weights"):
        Preview(ScoreConfig(), tiny_llama, tmp_path).dial.at(MergeConfig(), tmp_path)


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory, chats: Any) -> Path:
    """A dataset with general validation rows and one test row."""
    parts = [("replay", "validation", chat) for chat in chats] + [("target", "test", chats[0])]
    rows = [
        {"id": str(i), "source": part, "part": part, "split": split, "shape": "messages", "weight": 1.0, "payload": canonical_json({"messages": chat})}
        for i, (part, split, chat) in enumerate(parts)
    ]  # fmt: skip
    folder = tmp_path_factory.mktemp("replayed")
    write_rows(folder, "retain.dataset/1", rows)
    return folder


def test_signals_of_a_base_against_itself_are_zero_and_grow_with_the_change(
    tiny_llama: Path, adapter: Path, tmp_path: Path, replayed: Path
) -> None:
    config, tuned, rows = (
        ScoreConfig(dtype="fp32"),
        merged(tiny_llama, adapter, tmp_path / "merged"),
        general(replayed, 200),
    )
    same, moved = (measure(config, tiny_llama, other, rows) for other in (tiny_llama, tuned))
    assert same.rise == pytest.approx(0, abs=1e-6)
    assert same.kl == pytest.approx(0, abs=1e-6)
    assert moved.tokens == same.tokens > 50
    assert moved.kl > 1e-4
    assert measure(config, tiny_llama, tuned, rows[:3]).tokens < moved.tokens


def test_a_candidates_scores_say_what_general_text_became(
    tiny_llama: Path, tiny_tasks: Path, adapter: Path, tmp_path: Path, replayed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept like scores: a second scoring loads nothing."""
    tuned = merged(tiny_llama, adapter, tmp_path / "merged")
    base = {"uri": str(tiny_llama), "revision": "", "digest": digest.of_model(tiny_llama)}
    target = TargetConfig(metric="exact_match", max_new_tokens=2)

    def scored(name: str, **changes: Any) -> Any:
        config = ScoreConfig(dtype="fp32", target=target, **changes)
        return score(config, tuned, tmp_path / name, dataset=replayed, cache=tmp_path / "cache", base=base).signals

    models.load_tokenizer(tiny_llama).save_pretrained(str(tuned))
    found = scored("one")
    assert found == read_scores(tmp_path / "one")[1]["signals"]
    assert found["kl"] > 1e-4
    assert found["rise"] == pytest.approx(found["tuned_cross_entropy"] - found["base_cross_entropy"])
    monkeypatch.setattr(models, "load_model", None)
    assert scored("two") == found
    assert scored("three", signal_rows=0) == {}


def test_a_longer_embedding_is_compared_on_the_tokens_both_have(
    tiny_llama: Path, tmp_path: Path, replayed: Path
) -> None:
    """The same model with rows for words that do not exist: it gives them a little probability, and has not moved otherwise."""
    model = models.load_model(tiny_llama, dtype="fp32")
    model.resize_token_embeddings(pad_to_multiple_of=64)
    model.save_pretrained(str(tmp_path / "padded"))
    models.load_tokenizer(tiny_llama).save_pretrained(str(tmp_path / "padded"))
    rows, config = general(replayed, 4), ScoreConfig(dtype="fp32")
    found = [
        measure(config, *pair, rows) for pair in ((tiny_llama, tmp_path / "padded"), (tmp_path / "padded", tiny_llama))
    ]
    assert [one.kl for one in found] == pytest.approx([0, 0], abs=1e-6)
    assert found[0].rise == pytest.approx(-found[1].rise, abs=1e-6)
    assert found[0].rise > 1e-4


OTHER = "{% for m in messages %}{{ m['content'] }}. {% endfor %}"
REFUSES = "{{ raise_exception('no such role') }}"


@pytest.mark.parametrize(("template", "why"), [("", "no chat template"), (REFUSES, "cannot render"), (OTHER, "different tokens")])  # fmt: skip
def test_general_rows_that_cannot_be_compared_are_left_out_and_it_is_said_why(
    template: str, why: str, tiny_llama: Path, tiny_tasks: Path, tmp_path: Path, replayed: Path
) -> None:
    tuned = shutil.copytree(tiny_llama, tmp_path / "tuned")
    (tuned / "chat_template.jinja").write_text(template) if template else (tuned / "chat_template.jinja").unlink()
    base = {"uri": str(tiny_llama), "revision": "", "digest": digest.of_model(tiny_llama)}
    config = ScoreConfig(tasks=[TaskSpec(name="tiny_letters", limit=1)], include_path=[str(tiny_tasks)], target=TargetConfig(metric="none"))  # fmt: skip
    found = score(config, tuned, tmp_path / "scores", dataset=replayed, base=base)
    assert (found.signals, found.items) == ({}, 1)
    assert why in found.signals_left_out == read_scores(tmp_path / "scores")[1]["signals_left_out"]


def test_what_forbids_the_comparison_is_known_before_anything_is_scored(
    tiny_llama: Path, tiny_tasks: Path, tmp_path: Path, replayed: Path
) -> None:
    base = {"uri": str(tmp_path / "gone"), "revision": "", "digest": "sha256:0"}
    config = ScoreConfig(tasks=[TaskSpec(name="tiny_letters", limit=1)], include_path=[str(tiny_tasks)], target=TargetConfig(metric="none"))  # fmt: skip
    with pytest.raises(RetainError):
        score(config, tiny_llama, tmp_path / "scores", dataset=replayed, cache=tmp_path / "cache", base=base)
    assert not list((tmp_path / "cache").glob("*.json"))


def test_general_rows_with_words_a_model_has_not_or_beyond_its_context(tiny_llama: Path) -> None:
    row = {"id": "r", "shape": "tokenized", "payload": canonical_json({"input_ids": [5, 6, 4000], "labels": [-100, 6, 4000]})}  # fmt: skip
    late = {"id": "r", "shape": "tokenized", "payload": canonical_json({"input_ids": [5] * 600, "labels": [-100] * 599 + [5]})}  # fmt: skip
    assert "beyond the" in measure(ScoreConfig(), tiny_llama, tiny_llama, [row])
    assert "within 512 tokens" in measure(ScoreConfig(), tiny_llama, tiny_llama, [late])
