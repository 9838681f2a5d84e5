import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain import artifacts
from retain.chat import render
from retain.digest import canonical_json
from retain.errors import DataRefused
from retain.models import load_tokenizer
from retain.template.config import TemplateConfig
from retain.template.texts import read_texts
from retain.template.work import TemplateResult, template

Make = Callable[..., Path]


def run(
    make: Make, rows: list[dict[str, Any]], model: Path, folder: Path, *, cache: bool = False, **settings: Any
) -> TemplateResult:
    return template(
        TemplateConfig(**settings), make(rows), model, folder / "rendered", folder / "preview.html", cache=folder / "cache" if cache else None
    )  # fmt: skip


def tokens(folder: Path) -> list[dict[str, Any]]:
    return list(artifacts.read_rows(folder / "rendered", "retain.rendered/1"))


def test_every_split_but_test_is_rendered(
    make_dataset: Make, rows: list[dict[str, Any]], tiny_llama: Path, tmp_path: Path
) -> None:
    result = run(make_dataset, rows, tiny_llama, tmp_path)
    written = tokens(tmp_path)
    assert [row["id"] for row in written] == [f"r{i}" for i in range(9)]
    assert (result.rows, result.test_rows, result.tokenised_rows, result.cached_rows) == (9, 1, 9, 0)
    tokenizer = load_tokenizer(tiny_llama)
    for row, source in zip(written, rows, strict=False):
        one = render(tokenizer, "messages", json.loads(source["payload"]))
        assert (row["input_ids"], row["labels"], row["n_supervised"]) == (one.input_ids, one.labels, one.n_supervised)
        assert (row["part"], row["split"], row["source"]) == (source["part"], source["split"], source["source"])
    info = artifacts.read_info(tmp_path / "rendered", "retain.rendered/1")
    assert info["groups"]["replay/train"]["rows"] == 2
    assert info["template_digest"] == result.template_digest
    assert sum(group["tokens"] for group in info["groups"].values()) == result.tokens


def test_rows_of_the_base_itself_come_behind(
    make_dataset: Make, rows: list[dict[str, Any]], tiny_llama: Path, tmp_path: Path
) -> None:
    generated = make_dataset([{**rows[0], "id": "g0", "part": "replay"}], "generated")
    result = template(
        TemplateConfig(),
        make_dataset(rows),
        tiny_llama,
        tmp_path / "rendered",
        tmp_path / "p.html",
        generated=generated,
    )
    assert result.rows == 10
    assert tokens(tmp_path)[-1]["id"] == "g0"


def test_a_second_run_tokenises_nothing(
    make_dataset: Make, rows: list[dict[str, Any]], tiny_llama: Path, tmp_path: Path
) -> None:
    first = run(make_dataset, rows, tiny_llama, tmp_path, cache=True, batch_rows=2)
    again = run(make_dataset, rows, tiny_llama, tmp_path, cache=True, batch_rows=2)
    assert (first.tokenised_rows, first.cached_rows) == (9, 0)
    assert (again.tokenised_rows, again.cached_rows) == (0, 9)
    assert again.digest == first.digest


def test_a_changed_row_costs_its_own_chunk_only(
    make_dataset: Make, chats: list[Any], tiny_llama: Path, tmp_path: Path
) -> None:
    many = [[{"role": "user", "content": f"number {i}?"}, chats[i % 10][1]] for i in range(80)]
    rows = [{"id": f"r{i}", "source": "s", "part": "target", "split": "train", "shape": "messages", "weight": 1.0,
             "payload": canonical_json({"messages": chat})} for i, chat in enumerate(many)]  # fmt: skip
    run(make_dataset, rows, tiny_llama, tmp_path, cache=True, batch_rows=4)
    changed = [rows[0], {**rows[1], "id": "new", "payload": canonical_json({"messages": chats[0]})}, *rows[1:]]
    again = run(make_dataset, changed, tiny_llama, tmp_path, cache=True, batch_rows=4)
    assert 0 < again.tokenised_rows <= 32
    assert again.rows == 81


def test_another_option_or_template_is_another_cache(
    make_dataset: Make, rows: list[dict[str, Any]], tiny_llama: Path, tmp_path: Path
) -> None:
    run(make_dataset, rows, tiny_llama, tmp_path, cache=True)
    other = run(make_dataset, rows, tiny_llama, tmp_path, cache=True, template_kwargs={"enable_thinking": False})
    assert other.tokenised_rows == 9


def test_a_damaged_cache_file_is_rendered_again(
    make_dataset: Make, rows: list[dict[str, Any]], tiny_llama: Path, tmp_path: Path
) -> None:
    first = run(make_dataset, rows, tiny_llama, tmp_path, cache=True)
    files = list((tmp_path / "cache").rglob("*.parquet"))
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[:50])
    again = run(make_dataset, rows, tiny_llama, tmp_path, cache=True)
    assert (again.tokenised_rows, again.digest) == (9, first.digest)


@pytest.mark.parametrize("policy", ["drop", "truncate", "refuse"])
def test_long_rows(
    policy: str, make_dataset: Make, rows: list[dict[str, Any]], tiny_llama: Path, tmp_path: Path
) -> None:
    long = {"messages": [{"role": "user", "content": "invoice?"}, {"role": "assistant", "content": "invoice " * 100}]}
    rows = [*rows, {**rows[0], "id": "long", "payload": canonical_json(long)}]
    if policy == "refuse":
        with pytest.raises(DataRefused, match=r"faq, row long[\s\S]*at most 100"):
            run(make_dataset, rows, tiny_llama, tmp_path, long_rows=policy, max_seq_length=100)
        return
    result = run(make_dataset, rows, tiny_llama, tmp_path, long_rows=policy, max_seq_length=100)
    info = artifacts.read_info(tmp_path / "rendered", "retain.rendered/1")
    assert result.long_rows == 1
    assert info["long_rows_listed"][0]["id"] == "long"
    kept = {row["id"]: len(row["input_ids"]) for row in tokens(tmp_path)}
    assert kept.get("long", 0) == (100 if policy == "truncate" else 0)
    assert ("were cut" if policy == "truncate" else "were left out") in (tmp_path / "preview.html").read_text()


def test_a_row_cut_before_its_answer_is_an_error_that_names_it(
    make_dataset: Make, rows: list[dict[str, Any]], tiny_llama: Path, tmp_path: Path
) -> None:
    long = {"messages": [{"role": "user", "content": "invoice " * 100}, {"role": "assistant", "content": "yes"}]}
    with pytest.raises(DataRefused, match="row r0, cut to 100 tokens"):
        run(
            make_dataset,
            [{**rows[0], "payload": canonical_json(long)}],
            tiny_llama,
            tmp_path,
            long_rows="truncate",
            max_seq_length=100,
        )


def test_labels_of_a_classifier_head_are_numbered(
    make_dataset: Make, rows: list[dict[str, Any]], tiny_llama: Path, tmp_path: Path
) -> None:
    rows = [
        {**rows[0], "id": str(i), "shape": "classification", "payload": canonical_json({"text": "please", "label": i})}
        for i in (10, 9, 2)
    ]
    run(make_dataset, rows, tiny_llama, tmp_path, classification="head")
    assert [row["labels"] for row in tokens(tmp_path)] == [[2], [1], [0]]
    assert artifacts.read_info(tmp_path / "rendered", "retain.rendered/1")["options"]["class_names"] == ["2", "9", "10"]


def test_the_words_of_each_row_are_kept_for_decontamination(
    make_dataset: Make, rows: list[dict[str, Any]], tiny_llama: Path, tmp_path: Path
) -> None:
    run(make_dataset, rows, tiny_llama, tmp_path)
    texts = dict(read_texts(tmp_path / "rendered"))
    chat = json.loads(rows[3]["payload"])["messages"]
    assert texts["r3"] == chat[0]["content"] + "\n" + chat[1]["content"]
    assert "r9" not in texts


def test_settings_that_choose_the_form_act(
    make_dataset: Make, rows: list[dict[str, Any]], tiny_llama: Path, tmp_path: Path
) -> None:
    rows = [
        {
            **rows[0],
            "shape": "prompt_completion",
            "payload": canonical_json({"prompt": "where is a parcel?", "completion": " monday"}),
        }
    ]
    run(make_dataset, rows, tiny_llama, tmp_path)
    chat = tokens(tmp_path)
    run(make_dataset, rows, tiny_llama, tmp_path, prompt_completion="plain")
    assert len(tokens(tmp_path)[0]["input_ids"]) < len(chat[0]["input_ids"])


def test_the_preview_marks_the_answer_and_escapes_the_rest(
    make_dataset: Make, rows: list[dict[str, Any]], tiny_llama: Path, tmp_path: Path
) -> None:
    chat = {
        "messages": [
            {"role": "user", "content": "<script>alert(1)</script>"},
            {"role": "assistant", "content": "<b>yes</b>"},
        ]
    }
    run(make_dataset, [{**row, "payload": canonical_json(chat)} for row in rows], tiny_llama, tmp_path, preview_rows=1)
    html = (tmp_path / "preview.html").read_text()
    assert "<script" not in html
    assert "<mark>&lt;b&gt;yes&lt;/b&gt;&lt;|im_end|&gt;</mark>" in html
    assert html.count("<pre>") == 3
