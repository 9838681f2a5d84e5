from pathlib import Path

import pytest

from retain.errors import ConfigError
from retain.resolve.recipe import load
from retain.resolve.work import resolve


def test_a_typo_names_the_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "model: {base_model: x}\ndata: {datasets: [{path: a.jsonl}]}\ntrain: {learning_rte: 1.0e-4, lora: {rank: 3}}\n"
    )
    with pytest.raises(ConfigError) as error:
        load(str(path))
    assert "train.learning_rte: no such setting; did you mean 'learning_rate'?" in str(error.value)
    assert "train.lora.rank: no such setting" in str(error.value)


def test_overrides_take_what_yaml_calls_text() -> None:
    assert load("quickstart", ["train.learning_rate=5e-5"]).train.learning_rate == 5e-5
    assert load("quickstart", ["data.datasets.0.weight=2"]).data.datasets[0].weight == 2.0


def test_an_override_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="--set takes key=value"):
        load("quickstart", ["train.seed"])


def test_an_unknown_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load("quikstart")


def test_paths_are_meant_from_the_recipes_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "r.yaml"
    path.write_text(
        "model: {base_model: ../base}\ndata: {datasets: [{path: rows.jsonl}, {path: 's3://bucket/rows.jsonl'}]}\n"
    )
    recipe = load(str(path))
    assert recipe.model.base_model == str(tmp_path / "base")
    assert [d.path for d in recipe.data.datasets] == [str(tmp_path / "deep" / "rows.jsonl"), "s3://bucket/rows.jsonl"]


@pytest.mark.parametrize(("text", "message"), [("", "empty"), ("a: [", "not YAML"), ("- 1\n", "empty")])
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(str(tmp_path / "r.yaml"))


def test_the_digest_is_of_the_content() -> None:
    assert load("quickstart").digest() == load("quickstart").digest() != load("quickstart", ["train.seed=1"]).digest()


JUDGE = ["score.judge.tasks=[open]", "score.judge.endpoint=http://127.0.0.1:1/v1", "score.judge.model=m"]


@pytest.mark.parametrize("other", [["gate.on_fail=repair"], JUDGE, ["score.target.metric=macro_f1"]])
def test_what_needs_all_items_is_refused_beside_looks_that_may_end_early(other: list[str]) -> None:
    load("quickstart", ["gate.looks=4"])
    load("quickstart", other)
    with pytest.raises(ConfigError, match=r"gate\.looks: 1"):
        load("quickstart", ["gate.looks=4", *other])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.max_steps=5", "train.num_train_epochs=3"], "the epochs would be ignored"),
        (["data.replay.share=0", "train.kl.beta=0.1"], "measured on replay rows"),
        (["data.replay.share=0", "train.anchor.kind=ewc"], "measured on replay rows"),
    ],
)
def test_a_training_s_settings_that_cannot_act_are_refused_by_the_first_task(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(load("quickstart", overrides))


def test_what_no_run_can_merge_may_be_trained_by_itself(tiny_llama: Path) -> None:
    recipe = load("quickstart", ["train.method=bottleneck", "train.lora={}", f"model.base_model={tiny_llama}"])
    with pytest.raises(ConfigError, match="train it by itself with `retain train`"):
        resolve(recipe)
    assert resolve(recipe, alone=True).recipe.train.method == "bottleneck"
