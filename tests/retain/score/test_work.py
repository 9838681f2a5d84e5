"""The step on a tiny model: records, metadata, cache, resume, faults."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retain import digest
from retain.artifacts import ITEM_SCHEMA, read_scores
from retain.errors import ConfigError, DataRefused, EnvironmentFault, IntegrityError
from retain.score.config import ScoreConfig, TargetConfig, TaskSpec
from retain.score.work import score

from .conftest import write_tasks


def config(folder: Path, *names: str, **changes: Any) -> ScoreConfig:
    specs = [TaskSpec(name=name) for name in names or ("tiny_choice", "tiny_letters")]
    settings = {
        "tasks": specs,
        "include_path": [str(folder)],
        "dtype": "fp32",
        "target": TargetConfig(metric="exact_match", max_new_tokens=4),
    }
    return ScoreConfig(**{**settings, **changes})  # type: ignore[arg-type]


def test_records_and_scores_json(tiny_llama: Path, tiny_tasks: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    result = score(config(tiny_tasks), tiny_llama, tmp_path / "scores", dataset=tiny_dataset, role="base")
    table, meta = read_scores(tmp_path / "scores")
    assert table.schema == ITEM_SCHEMA
    rows = table.to_pylist()
    assert {(r["task"], r["metric"]) for r in rows} == {
        ("tiny_choice", "acc"), ("tiny_choice", "acc_norm"), ("tiny_letters", "acc"), ("target", "exact_match")
    }  # fmt: skip
    choice = [r for r in rows if r["task"] == "tiny_choice"]
    assert len(choice) == 18
    assert all(
        r["chance"] == pytest.approx(1 / 3) and 0 < r["p_gold"] < 1 and r["task_version"] == "3.0" for r in choice
    )
    assert {r["cluster"] for r in choice} == {"frame-0", "frame-1", "frame-2"}
    assert all(r["value"] == float(r["output"] == r["gold"]) for r in choice if r["metric"] == "acc")
    target = [r for r in rows if r["task"] == "target"]
    assert len(target) == 7
    assert all(math.isnan(r["p_gold"]) and r["cluster"] == r["doc_hash"] for r in target)
    for key in (
        "model_digest",
        "tokenizer_digest",
        "template_digest",
        "engine",
        "engine_version",
        "dtype",
        "device",
        "batch_budget",
    ):
        assert meta[key]
    assert meta["model_digest"] == result.model_digest == digest.of_model(tiny_llama)
    assert meta["tasks"]["tiny_choice"]["n"] == 9
    assert meta["tasks"]["tiny_choice"]["metric"] == "acc"
    assert meta["tasks"]["tiny_choice"]["mean"] == pytest.approx(
        sum(r["value"] for r in choice if r["metric"] == "acc") / 9
    )
    assert not (tmp_path / "scores" / ".shards").exists()


def test_same_scores_are_the_same_bytes(tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    for name in "ab":
        score(config(tiny_tasks), tiny_llama, tmp_path / name)
    assert (tmp_path / "a" / "items.parquet").read_bytes() == (tmp_path / "b" / "items.parquet").read_bytes()


def test_a_group_is_one_benchmark_with_strata(tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    score(config(tiny_tasks, "tiny_group"), tiny_llama, tmp_path / "scores")
    rows = [r for r in read_scores(tmp_path / "scores")[0].to_pylist() if r["metric"] == "acc"]
    assert {r["task"] for r in rows} == {"tiny_group"}
    assert {r["stratum"] for r in rows} == {"tiny_choice", "tiny_letters"}
    assert len({r["doc_id"] for r in rows}) == 18


@pytest.mark.parametrize(
    "metric",
    [
        "f1",
        "rouge1",
        "rougeL",
        "bleu",
        "chrf",
        "numeric_match",
        "label_accuracy",
        "macro_f1",
        "json_valid",
        "sql_valid",
        "perplexity",
    ],
)
def test_target_metrics(metric: Any, tiny_llama: Path, tiny_tasks: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    settings = config(tiny_tasks, tasks=[], target=TargetConfig(metric=metric, max_new_tokens=3, limit=2))
    result = score(settings, tiny_llama, tmp_path / "scores", dataset=tiny_dataset)
    assert result.tasks["target"]["metric"] == metric
    assert result.tasks["target"]["n"] == 2
    assert ("macro_f1" in result.tasks["target"]) == (metric in ("label_accuracy", "macro_f1"))


def test_token_loss_is_the_mean_log_likelihood_of_what_training_would_learn(
    tiny_llama: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    import torch

    from retain import models
    from retain.chat import render
    from retain.score import target

    settings = ScoreConfig(dtype="fp32", target=TargetConfig(metric="token_loss"))
    score(settings, tiny_llama, tmp_path / "scores", dataset=tiny_dataset)
    got = {r["doc_id"]: r["value"] for r in read_scores(tmp_path / "scores")[0].to_pylist()}
    model, tokenizer = models.load_model(tiny_llama, dtype="fp32"), models.load_tokenizer(tiny_llama)
    for row in target.read(tiny_dataset):
        rendered = render(tokenizer, row.shape, row.payload)
        with torch.no_grad():
            loss = model(input_ids=torch.tensor([rendered.input_ids]), labels=torch.tensor([rendered.labels])).loss
        assert got[row.id] == pytest.approx(-float(loss), abs=1e-4)
    settings = ScoreConfig(dtype="fp32", target=TargetConfig(metric="perplexity"))
    score(settings, tiny_llama, tmp_path / "perplexity", dataset=tiny_dataset)
    rows = read_scores(tmp_path / "perplexity")[0].to_pylist()
    assert {r["doc_id"]: -math.log(r["value"]) for r in rows} == pytest.approx(got, abs=1e-4)
    assert not any(r["higher_is_better"] for r in rows)


WARM = """
import sys
from pathlib import Path
from retain.score.config import ScoreConfig
from retain.score.work import score
config = ScoreConfig.model_validate_json(Path(sys.argv[1]).read_text())
result = score(config, Path(sys.argv[2]), Path(sys.argv[3]), cache=Path(sys.argv[4]), dataset=Path(sys.argv[5]), role="base")
assert result.cached == ["tiny_choice", "tiny_letters", "target"], result.cached
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""


def test_a_warm_cache_loads_no_model_and_no_torch(
    tiny_llama: Path, tiny_tasks: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = config(tiny_tasks)
    cold = score(settings, tiny_llama, tmp_path / "cold", cache=tmp_path / "cache", dataset=tiny_dataset, role="base")
    assert cold.cached == []
    (tmp_path / "config.json").write_text(settings.model_dump_json())
    arguments = [tmp_path / "config.json", tiny_llama, tmp_path / "warm", tmp_path / "cache", tiny_dataset]
    subprocess.run([sys.executable, "-c", WARM, *map(str, arguments)], check=True, env=_environment())
    for name in ("items.parquet", "scores.json"):
        assert (tmp_path / "cold" / name).read_bytes() == (tmp_path / "warm" / name).read_bytes()


def test_two_models_of_one_tokenizer_tokenise_once(
    tiny_llama: Path, tiny_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retain.score import run

    from ...conftest import build_llama

    other = build_llama(tmp_path / "other", seed=5)
    run.TOKENS.clear()
    score(config(tiny_tasks, "tiny_choice"), tiny_llama, tmp_path / "base", role="base")
    [known] = run.TOKENS.values()
    assert len(known) >= 9
    marked = {text: id(tokens) for text, tokens in known.items()}
    score(config(tiny_tasks, "tiny_choice"), other, tmp_path / "candidate")
    assert {text: id(tokens) for text, tokens in known.items()} == marked
    assert (tmp_path / "base" / "items.parquet").read_bytes() != (tmp_path / "candidate" / "items.parquet").read_bytes()


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


FLIPS: dict[str, Any] = {
    "batch_tokens": 384, "max_length": 64, "attention": "plain", "apply_chat_template": True, "system_text": "short answers",
    "template_kwargs": {"date": "today"}, "fewshot_as_multiturn": False, "dtype": "bf16",
}  # fmt: skip


# Settings that are flipped elsewhere: which test.
ELSEWHERE = {
    "tasks": "test_work.test_every_task_setting_is_in_the_cache_key",
    "include_path": "test_work.test_an_unknown_benchmark_names_the_nearest",
    "target": "test_work.test_target_metrics",
    "device": "test_work.test_a_device_that_is_not_there_is_an_error",
    "prompt_completion": "test_work.test_the_form_of_test_rows_is_in_the_target_s_key",
    "judge": "../judge/test_judge.test_every_setting_moves_something",
    "signal_rows": "test_preview.test_a_candidates_scores_say_what_general_text_became",
    "rounds": "test_rounds.test_four_rounds_ask_every_item_once_and_give_the_same_numbers",
    "rounds_seed": "test_rounds.test_a_round_has_a_key_of_its_own_whatever_came_before",
    "run_code": "test_work.test_a_benchmark_that_runs_answers_as_programs_waits_for_a_yes",
}


def test_every_setting_has_its_test() -> None:
    assert set(ScoreConfig.model_fields) == set(FLIPS) | set(ELSEWHERE)
    for name in ELSEWHERE.values():
        module, _, function = name.rpartition(".")
        assert f"def {function}(" in (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"), name


def test_the_form_of_test_rows_is_in_the_target_s_key(tiny_llama: Path, tiny_dataset: Path, tiny_tasks: Path) -> None:
    from retain.score.run import Run

    forms: tuple[Any, ...] = ("auto", "plain")
    keys = [Run(config(tiny_tasks, prompt_completion=form), tiny_llama, "base").rounds(tiny_dataset)[0][-1].key for form in forms]  # fmt: skip
    assert [key["prompt_completion"] for key in keys] == list(forms)


def test_a_device_that_is_not_there_is_an_error() -> None:
    from retain.score import place

    assert place.resolve(ScoreConfig(device="cpu")).kind == "cpu"
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(EnvironmentFault, match="no CUDA device"):
            place.resolve(ScoreConfig(device="cuda"))


def test_a_benchmark_that_runs_answers_as_programs_waits_for_a_yes(tmp_path: Path) -> None:
    from retain.score import tasks

    text = (write_tasks(tmp_path) / "tiny_answer.yaml").read_text()
    (tmp_path / "tiny_code.yaml").write_text(text.replace("tiny_answer", "tiny_code") + "unsafe_code: true\n")
    asked = ScoreConfig(tasks=[TaskSpec(name="tiny_code")], include_path=[str(tmp_path)])
    with pytest.raises(ConfigError, match="runs the model's answers as programs"):
        tasks.load(asked)
    assert len(tasks.load(asked.model_copy(update={"run_code": True}))) == 1


@pytest.mark.parametrize("knob", FLIPS)
def test_every_setting_is_in_the_cache_key(knob: str, tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    from retain.score.run import Run

    one, two = (
        Run(config(tiny_tasks, "tiny_choice", **change), tiny_llama, "base").rounds(None)[0][0].key
        for change in ({}, {knob: FLIPS[knob]})
    )
    assert digest.of_json(one) != digest.of_json(two)


@pytest.mark.parametrize(
    "change", [{"num_fewshot": 2}, {"limit": 4}, {"seed": 5}, {"fewshot": "first"}, {"chat": "on"}]
)
def test_every_task_setting_is_in_the_cache_key(change: dict[str, Any], tiny_llama: Path, tiny_tasks: Path) -> None:
    from retain.score.run import Run

    specs = [TaskSpec(name="tiny_choice"), TaskSpec(name="tiny_choice", **change)]
    one, two = (Run(config(tiny_tasks, tasks=[spec]), tiny_llama, "base").rounds(None)[0][0].key for spec in specs)
    assert digest.of_json(one) != digest.of_json(two)


def test_a_killed_scoring_goes_on_where_it_was(tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    """The second task dies; what the first had finished is found again."""
    broken = config(tiny_tasks, "tiny_choice", "tiny_answer", max_length=8)
    with pytest.raises(ConfigError):
        score(broken, tiny_llama, tmp_path / "scores")
    result = score(config(tiny_tasks, "tiny_choice", "tiny_letters", max_length=8), tiny_llama, tmp_path / "scores")
    assert result.cached == ["tiny_choice"]


def test_a_damaged_shard_is_scored_again(tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    settings = config(tiny_tasks, "tiny_choice")
    score(settings, tiny_llama, tmp_path / "a", cache=tmp_path / "cache")
    next((tmp_path / "cache").glob("*.parquet")).write_bytes(b"half")
    assert score(settings, tiny_llama, tmp_path / "b", cache=tmp_path / "cache").cached == []


def test_long_items_lose_their_left_end_and_are_counted(tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    result = score(config(tiny_tasks, "tiny_choice", max_length=12), tiny_llama, tmp_path / "scores")
    rows = [r for r in read_scores(tmp_path / "scores")[0].to_pylist() if r["metric"] == "acc"]
    assert 0 < result.truncated == sum(r["truncated"] for r in rows)


def test_memory_that_runs_out_gives_one_budget_to_all_tasks_and_the_next_run(
    tiny_llama: Path, tiny_tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocator itself fails, in the second task only; both end in the same batches, and so does the other model."""
    import torch

    from retain.score import tasks
    from retain.score.forward import Scorer

    names = ("tiny_choice", "tiny_inputs")
    score(config(tiny_tasks, *names, batch_tokens=200), tiny_llama, tmp_path / "small")
    answer, batch = tasks.answer, Scorer._batch
    asked, failed = [""], list[int]()

    def answering(engine: Any, requests: list[Any]) -> None:
        asked[0] = requests[0].task_name
        answer(engine, requests)

    def crowded(self: Any, rows: Any, before: Any) -> Any:
        if self.budget > 200 and asked[0] == "tiny_inputs":
            failed.append(self.budget)
            torch.empty(1 << 52)
        return batch(self, rows, before)

    monkeypatch.setattr(tasks, "answer", answering)
    monkeypatch.setattr(Scorer, "_batch", crowded)
    for name in ("base", "candidate"):
        failed.clear()
        score(config(tiny_tasks, *names, batch_tokens=800), tiny_llama, tmp_path / name, cache=tmp_path / "cache")
        assert set(failed) == ({800, 400} if name == "base" else set())
        assert read_scores(tmp_path / name)[1]["batch_budget"] == 200
        assert (tmp_path / name / "items.parquet").read_bytes() == (tmp_path / "small" / "items.parquet").read_bytes()


def test_nan_logits_name_the_item(tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_llama, tmp_path / "broken")
    weights = load_file(str(broken / "model.safetensors"))
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, str(broken / "model.safetensors"), {"format": "pt"})
    for name in ("tiny_choice", "tiny_answer", "tiny_text"):
        with pytest.raises(IntegrityError, match=rf"task {name}, document \d"):
            score(config(tiny_tasks, name), broken, tmp_path / "scores")


def test_an_unknown_benchmark_names_the_nearest(tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'tiny_choice'"):
        score(config(tiny_tasks, "tiny_choise"), tiny_llama, tmp_path / "scores")


def test_nothing_to_score(tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to score"):
        score(config(tiny_tasks, tasks=[]), tiny_llama, tmp_path / "scores")


def test_a_dataset_without_test_rows(tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    from retain.artifacts import write_rows

    write_rows(tmp_path / "dataset", "retain.dataset/1", [])
    with pytest.raises(DataRefused, match="no test rows"):
        score(config(tiny_tasks), tiny_llama, tmp_path / "scores", dataset=tmp_path / "dataset")


def test_a_model_without_a_chat_template(tiny_llama: Path, tiny_tasks: Path, tmp_path: Path) -> None:
    import shutil

    bare = shutil.copytree(tiny_llama, tmp_path / "bare", ignore=shutil.ignore_patterns("chat_template*"))
    with pytest.raises(ConfigError, match="no chat template"):
        score(config(tiny_tasks, apply_chat_template=True), bare, tmp_path / "scores")


def test_a_task_whose_data_cannot_be_reached(tiny_llama: Path, tmp_path: Path) -> None:
    from retain.errors import EnvironmentFault

    (tmp_path / "far.yaml").write_text(
        "task: far\ndataset_path: nobody/nothing-here\ntest_split: test\noutput_type: multiple_choice\n"
    )
    settings = ScoreConfig(tasks=[TaskSpec(name="far")], include_path=[str(tmp_path)])
    with pytest.raises(EnvironmentFault, match="cannot be reached"):
        score(settings, tiny_llama, tmp_path / "scores")


def test_fixed_examples_are_the_first_of_the_pool_for_every_item(tiny_tasks: Path) -> None:
    from retain.score import tasks

    settings = config(tiny_tasks, tasks=[TaskSpec(name="tiny_answer", num_fewshot=2, fewshot="first")])
    contexts = {request.arguments[0] for request in tasks.build_requests(tasks.load(settings)[0], settings, None, "")}
    assert len({context.rsplit("\n\n", 1)[0] for context in contexts}) == 1
