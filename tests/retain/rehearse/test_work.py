import json
from pathlib import Path
from typing import Any

import pytest

from retain import artifacts
from retain.digest import canonical_json
from retain.errors import DataRefused
from retain.models import load_tokenizer
from retain.rehearse.config import RehearseConfig
from retain.rehearse.generate import Writer
from retain.rehearse.work import RehearseResult, rehearse

LOOSE: dict[str, Any] = {
    "keep_unfinished": True,
    "max_repeat_share": 1.0,
    "max_new_tokens": 8,
    "batch_rows": 3,
    "max_prompt_tokens": 64,
    "device": "cpu",
    "dtype": "fp32",
}


@pytest.fixture
def prompts(tmp_path: Path, chats: list[Any]) -> Path:
    rows = [
        {"id": f"r{i}", "source": "general", "part": "replay" if i < 7 else "target", "split": "train", "shape": "messages", "weight": 1.0, "payload": canonical_json({"messages": chat})}
        for i, chat in enumerate(chats)
    ]  # fmt: skip
    artifacts.write_rows(tmp_path / "prompts", "retain.dataset/1", rows)
    return tmp_path / "prompts"


def run(model: Path, data: Path, out: str = "dataset", **settings: Any) -> RehearseResult:
    folder = data.parent
    return rehearse(RehearseConfig(**{**LOOSE, **settings}), model, data, folder / out, folder / "cache")


def written(prompts: Path, out: str = "dataset") -> list[dict[str, Any]]:
    return list(artifacts.read_rows(prompts.parent / out, "retain.dataset/1"))


def test_the_base_answers_the_questions_of_replay_rows_alone(tiny_llama: Path, prompts: Path, chats: list[Any]) -> None:
    result = run(tiny_llama, prompts, rows=3)
    rows = written(prompts)
    assert (result.rows, len(rows)) == (3, 3)
    asked = {chat[0]["content"] for chat in chats[:7]}
    for row in rows:
        assert (row["part"], row["split"], row["source"], row["shape"]) == ("replay", "train", "generated", "messages")
        question, answer = json.loads(row["payload"])["messages"]
        assert question["content"] in asked
        assert answer["content"].strip()


def test_greedy_answers_are_what_the_model_writes_alone(tiny_llama: Path, prompts: Path) -> None:
    run(tiny_llama, prompts, rows=5)
    question, answer = json.loads(written(prompts)[0]["payload"])["messages"]
    tokenizer = load_tokenizer(tiny_llama)
    prompt = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
    writer = Writer(tiny_llama, RehearseConfig(**LOOSE), "<|im_end|>")
    assert writer.write([prompt], framed=True, new_tokens=8, temperature=0, seed=0)[0].text == answer["content"]


def test_a_second_run_asks_nothing_and_a_killed_one_goes_on(tiny_llama: Path, prompts: Path) -> None:
    first = run(tiny_llama, prompts, rows=7)
    again = run(tiny_llama, prompts, rows=7)
    assert (first.cached_answers, again.cached_answers) == (0, 7)
    assert again.digest == first.digest
    store = next((prompts.parent / "cache").glob("*.jsonl"))
    lines = store.read_bytes().split(b"\n")
    store.write_bytes(lines[0] + b"\n" + lines[1][:40])  # killed while the second batch was written
    resumed = run(tiny_llama, prompts, rows=7)
    assert (resumed.cached_answers, resumed.digest) == (3, first.digest)
    assert store.read_bytes().split(b"\n") == lines


def test_another_base_or_setting_is_another_cache(tiny_llama: Path, prompts: Path) -> None:
    run(tiny_llama, prompts, rows=3)
    assert run(tiny_llama, prompts, rows=3, max_new_tokens=9).cached_answers == 0
    assert run(tiny_llama, prompts, rows=2, keep_unfinished=True).cached_answers == 3


def test_without_general_rows_the_base_writes_the_questions_too(tiny_llama: Path, prompts: Path) -> None:
    settings = {"rows": 4, "prompts": "own", "temperature": 0.9, "max_prompt_tokens": 200, "max_attempts": 30}
    result = run(tiny_llama, prompts, **settings)
    rows = written(prompts)
    assert result.rows == len(rows) >= 1
    assert json.loads(rows[0]["payload"])["messages"][0]["role"] == "user"
    assert run(tiny_llama, prompts, "again", **settings).digest == result.digest
    assert run(tiny_llama, prompts, "other", **{**settings, "seed": 5}).digest != result.digest


def test_a_base_without_a_template_writes_texts(tiny_llama: Path, prompts: Path, tmp_path: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny_llama, bare)
    (bare / "chat_template.jinja").unlink()
    run(bare, prompts, rows=2, prompts="own")
    assert {row["shape"] for row in written(prompts)} == {"text"}
    run(bare, prompts, rows=2)
    assert {row["shape"] for row in written(prompts)} == {"prompt_completion"}


def test_no_rows_wanted_loads_no_model(prompts: Path, tiny_llama: Path) -> None:
    assert run(tiny_llama, prompts, rows=0).rows == 0
    assert written(prompts) == []


def test_no_usable_answer_is_an_error_with_the_counts(tiny_llama: Path, prompts: Path) -> None:
    with pytest.raises(DataRefused, match=r"no answer[\s\S]*unfinished"):
        run(tiny_llama, prompts, rows=3, keep_unfinished=False, max_new_tokens=4)


def test_questions_that_are_too_long_are_left_out(tiny_llama: Path, prompts: Path) -> None:
    with pytest.raises(DataRefused, match="at most 4 tokens"):
        run(tiny_llama, prompts, rows=3, prompts="dataset", max_prompt_tokens=4)
