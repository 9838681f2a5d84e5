"""Items, training, data, settings and lineage: each shows what it should, and never what it must not."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retain.artifacts import read_json, write_json
from retain.page import esc
from retain.report.excerpts import read_preview
from retain.report.questions import prompt_of
from retain.report.settings import defaults, flat, shown


def part(page: str, title: str) -> str:
    """The section under an h2."""
    start = page.index(f"<h2>{title}</h2>")
    end = page.find("<h2>", start + 4)
    return page[start : end if end > 0 else None]


def test_flips_show_both_answers_worst_benchmark_first(decided: Callable[..., Any], general: Any, harmed: Any) -> None:
    shown = part(decided({**general, "reading": harmed["reading"]}).page(), "Items that flipped")
    assert re.findall(r"<summary><b>(\w+)</b>", shown)[0] == "reading"
    assert shown.count('<div class="item">') <= 60
    card = shown[shown.index('<div class="item">') : shown.index("</dl>")]
    assert re.search(
        r"expected</dt><dd class=\"\">(\w+)</dd><dt>baseline</dt><dd class=\"right\">\1</dd><dt>tuned</dt><dd class=\"wrong\">(?!\1)",
        card,
    )


def test_target_rows_before_and_after_with_their_question(whole: Callable[..., Any]) -> None:
    run = whole()
    shown = part(run.page(), "The target's rows, before and after")
    assert "My parcel was to come on monday; where is number 1" in shown
    assert re.search(
        r'baseline</dt><dd class="wrong">I am sorry to hear that.</dd><dt>tuned</dt><dd class="right">queue=', shown
    )
    assert [name for name in ("Learned", "Lost", "Still wrong") if f"<summary>{name} " in shown] == [
        "Learned",
        "Lost",
        "Still wrong",
    ]
    assert "where is number" not in part(run.without("dataset").page(), "The target's rows, before and after")


def test_benchmark_questions_come_from_the_tasks(whole: Callable[..., Any], tmp_path: Path) -> None:
    run = whole()
    with (tmp_path / "facts.jsonl").open("w", encoding="utf-8") as stream:
        for i in range(400):
            stream.write(
                json.dumps(
                    {"q": f"Which way is number {i}?", "choices": ["north", "south", "east", "west"], "gold": i % 4}
                )
                + "\n"
            )
    task = {"task": "facts", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "facts.jsonl")}}, "test_split": "test",
            "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "choices", "doc_to_target": "gold", "metadata": {"version": 1.0}}  # fmt: skip
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "facts.yaml").write_text(json.dumps(task), encoding="utf-8")
    value = read_json(run.folders.recipe, schema="retain.recipe/1")
    value["recipe"]["score"] |= {"tasks": [{"name": "facts"}], "include_path": [str(tmp_path / "tasks")]}
    write_json(run.folders.recipe, value)
    shown = part(run.page(), "Items that flipped")
    asked = re.findall(r'<p class="asked">Which way is number (\d+)\?', shown)
    assert len(asked) == 8
    assert all(f'id">facts {number}<' in shown for number in asked)


def test_tasks_that_cannot_be_loaded_are_said_and_harm_nothing(whole: Callable[..., Any]) -> None:
    run = whole()
    value = read_json(run.folders.recipe, schema="retain.recipe/1")
    value["recipe"]["score"] |= {"tasks": [{"name": "facts"}], "include_path": ["/nowhere"]}
    write_json(run.folders.recipe, value)
    page = run.page()
    assert "questions are not shown, their tasks could not be loaded here: there is no such folder of tasks" in page
    assert "<h2>Items that flipped</h2>" in page


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "no"}]}, "hi"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}, "user: a\nassistant: b\nuser: c"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}]}, "parts"),
        ({"prompt": "p", "completion": "c"}, "p"),
        ({"prompt": [{"role": "user", "content": "p"}], "completion": "c"}, "p"),
        ({"source": "s", "target": "t"}, "s"),
        ({"text": "t", "label": 1}, "t"),
        ({"input_ids": [1], "labels": [1]}, ""),
    ],
)  # fmt: skip
def test_what_stands_before_the_answer(payload: dict[str, Any], text: str) -> None:
    assert prompt_of(payload) == text


def test_confidence_shifts_per_benchmark(decided: Callable[..., Any], general: Any, harmed: Any) -> None:
    shown = part(decided({**general, "facts": harmed["facts"]}).page(), "Confidence in the right choice")
    names = re.findall(r'<div class="name">(\w+)<br>', shown)
    assert names[0] == "facts"
    assert sorted(names) == sorted(general)  # the target has no choices
    assert 'class="f-bad"' in shown
    assert 'class="f-good"' in shown


def test_a_real_training_is_drawn(whole: Callable[..., Any], tiny_llama: Path, tmp_path: Path) -> None:
    from retain.steps import numbers
    from retain.train.config import TrainConfig
    from retain.train.work import train

    run = whole()
    result = train(
        TrainConfig(max_steps=3, batch_rows=4, learning_rate=1e-3, device="cpu"),
        run.folders.mixture,
        tiny_llama,
        tmp_path / "adapter",
        tmp_path / "checkpoints",
    )
    card = read_json(tmp_path / "adapter" / "retain.json", schema="retain.adapter/1")
    losses = read_json(tmp_path / "adapter" / "losses.json", schema="retain.losses/1")
    write_json(
        run.folders.history,
        {"schema": "retain.history/1", "summary": numbers(vars(result)), "adapter": card, "losses": losses},
    )
    shown = part(run.page(), "Training")
    assert "3 of 3 steps" in shown
    assert shown.count("<svg") == 2
    assert "level of the base, " in shown
    assert "<td>0.001</td>" in shown
    assert "tokens/s (" in shown


def test_single_datasets_and_a_preference_are_told_apart(whole: Callable[..., Any]) -> None:
    run = whole()
    history = read_json(run.folders.history, schema="retain.history/1")
    assert "loss of the base" not in run.page()
    history["losses"]["by_dataset"] = {"tickets": [[0, 0.7], [160, 0.25]], "faq<b>": [[0, 0.69], [160, 0.5]]}
    history["adapter"]["config"]["objective"] = "dpo"
    write_json(run.folders.history, history)
    shown = part(run.page(), "Training")
    assert "Loss on the task (dpo, nats a row)" in shown
    assert re.search(r"faq&lt;b&gt;</td><td[^>]*>0.690</td><td[^>]*>0.500", shown)


def test_the_base_level_and_a_small_rise_stay_in_proportion(whole: Callable[..., Any]) -> None:
    shown = part(whole().page(), "Training")
    assert "Loss on general text: +0.018 nats" in shown
    curve = re.findall(r'class="s-warn" stroke-width="2"[^>]*d="M([^"]+)"', shown)[0]
    heights = [float(point.split()[1]) for point in curve.split("L")]
    assert max(heights) - min(heights) < 50  # of 190 pixels: 0.018 nats are no cliff


def test_rejects_show_counts_and_row_numbers_but_no_text(whole: Callable[..., Any]) -> None:
    page = whole().page()
    shown = part(page, "Data")
    assert "<h3>Rows refused: 38</h3>" in shown
    assert "<span>personal data</span>" in shown
    assert "10, 14, 18" in shown  # row numbers
    for secret in ("jane.roe", "555 0143", "SECRET RAW TEXT"):
        assert secret not in page


def test_mixture_shares_and_decontamination(whole: Callable[..., Any]) -> None:
    run = whole()
    assert "The rows were not compared with the gate's items." in part(run.page(), "Data").replace("&#x27;", "'")
    info = read_json(run.folders.mixture / "info.json", schema="retain.mixture/1")
    info["decontamination"] = {"rows_compared": 1200, "items": 1600, "dropped": 2, "by": {"task": {"facts": 2}}}
    write_json(run.folders.mixture / "info.json", info)
    shown = part(run.page(), "Data")
    assert "1,200 rows compared with 1,600 items of the gate: 2 rows dropped (facts 2)." in shown
    replay = 100 * info["achieved"]["replay"]
    assert f"{replay:.2f} % of them replay" in shown
    assert f"replay {replay:.2f} %" in shown


def test_the_mask_is_the_preview_s_own(whole: Callable[..., Any]) -> None:
    run = whole()
    found = read_preview(run.folders.preview.read_text(encoding="utf-8"))
    assert found.title.startswith("80 rows, ")
    assert {row.source.strip() for row in found.rows} == {"tickets target, train", "general replay, train"}
    assert len(found.rows) == 4
    answer = "".join(text for text, supervised in found.rows[-1].runs if supervised)
    assert answer.startswith("queue=delivery; next=track parcel")
    shown = part(run.page(), "Data")
    assert f"<mark>{esc(answer)}</mark>" in shown
    assert shown.index("tickets target, train") < shown.index("general replay, train")


def test_a_preview_of_somebody_else_brings_no_markup() -> None:
    found = read_preview("<h1>t</h1><h3>s</h3><pre>a<mark>b<script>x()</script></mark>c</pre><pre>unclosed")
    assert found.title == "t"
    assert ("b", True) in found.rows[0].runs
    assert ("c", False) in found.rows[0].runs


def test_settings_mark_what_differs_and_hide_credentials(whole: Callable[..., Any]) -> None:
    shown_part = part(whole().page(), "Settings in force")
    changed = shown_part[: shown_part.index("</table>")]
    for path, value, default in (
        ("train.lora.r", "8", "16"),
        ("data.replay.share", "0.1", "0.05"),
        ("data.datasets[1].split", "test", "train"),
    ):
        row = f'<tr><td>{path.replace(".", "<wbr>.")}</td><td><span class="any">{value}</span></td><td><span class="any">{default}</span></td></tr>'
        assert row in changed
    assert "warmup_ratio" not in changed
    assert "train<wbr>.warmup_ratio" in shown_part
    assert "hunter2" not in shown_part
    assert "s3://store.example/train.jsonl" in shown_part


def test_defaults_cover_every_setting_of_a_recipe() -> None:
    from retain.resolve.recipe import Recipe

    known = dict(defaults(Recipe))
    recipe = Recipe.model_validate({"model": {"base_model": "x"}, "data": {"datasets": [{"path": "y"}]}}).as_parameter()
    without = {re.sub(r"\[\d+\]", "[]", path) for path, _ in flat(recipe)} - set(known)
    assert without == {"model.base_model", "data.datasets[].path"}
    assert all(known[path] == value for path, value in flat(recipe) if path in known)


def test_a_value_is_shown_as_it_is_written() -> None:
    assert (
        shown(["https://u:p@h.example/x?sig=1", 2]) == '<span class="any">[&quot;https://h.example/x&quot;, 2]</span>'
    )
    assert shown("") == '<span class="soft">empty</span>'
    assert shown(True) == '<span class="any">true</span>'
    assert len(shown("x" * 5000)) < 400


def test_lineage_from_data_to_verdict(whole: Callable[..., Any], decided: Callable[..., Any]) -> None:
    run = whole()
    shown = part(run.page(), "Lineage")
    kinds = ["base model", "data", "recipe", "mixture", "adapter", "tuned model", "scores", "verdict"]
    assert re.findall(r"<li[^>]*><b>([\w ]+)</b>", shown) == kinds
    evidence = read_json(run.folder / "verdict" / "evidence.json", schema="retain.evidence/1")
    for digest in (
        evidence["digest"],
        evidence["candidate_digest"],
        read_json(run.folders.recipe, schema="retain.recipe/1")["digest"],
    ):
        assert f"<code>{digest}</code>" in shown
        assert digest.removeprefix("sha256:")[:12] in shown
    assert "hunter2" not in shown


def test_how_to_decide_again(decided: Callable[..., Any]) -> None:
    shown = part(decided().page(), "Check it yourself")
    assert "<pre>retain gate --evidence evidence.json</pre>" in shown
    assert "version 1, 0 shots, acc" in shown
    assert "<td>attention</td><td>tree</td>" in shown


def test_general_text_stands_in_nats_where_it_was_measured(decided: Callable[..., Any]) -> None:
    run = decided()
    assert "<h2>General text</h2>" not in run.page()
    path = run.folder / "tuned" / "scores.json"
    signals = {"tokens": 2048, "base_cross_entropy": 2.5, "tuned_cross_entropy": 2.58, "rise": 0.08, "kl": 0.031}
    write_json(path, {**json.loads(path.read_text()), "signals": signals})
    shown = part(run.page(), "General text")
    assert all(text in shown for text in ("2,048 tokens", "2.5000", "2.5800", "+0.0800", "0.0310", "0.05 nats"))
    write_json(path, {**json.loads(path.read_text()), "signals": {}, "signals_left_out": "no chat template <here>"})
    assert "Not compared: no chat template &lt;here&gt;." in part(run.page(), "General text")
