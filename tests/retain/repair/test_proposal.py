"""The next training as a diff of the recipe in force."""

from retain.repair.proposal import diff, forget_less

FULL = {"train": {"method": "full", "learning_rate": 1e-3, "num_train_epochs": 4}, "data": {"replay": {"share": 0.0}}}


def test_a_reckless_full_tune_becomes_a_lora_with_replay() -> None:
    text = diff(forget_less(FULL))
    for line in ("- train.method: full\n+ train.method: lora", "+ train.learning_rate: 0.0001", "+ data.replay.share: 0.05", "+ train.num_train_epochs: 2"):  # fmt: skip
        assert line in text


def test_a_lora_gets_a_lower_rate_more_replay_and_other_targets() -> None:
    lora = {"method": "lora", "learning_rate": 5e-4, "num_train_epochs": 2, "lora": {"target_modules": "all-linear"}}
    found = {c.key: c.then for c in forget_less({"train": lora, "data": {"replay": {"share": 0.1}}})}
    assert found == {"train.learning_rate": 1e-4, "data.replay.share": 0.25, "train.lora.target_modules": "mlp-only"}
    careful = {"method": "lora", "learning_rate": "auto", "num_train_epochs": 1, "lora": {"target_modules": "mlp-only"}}
    assert {c.key: c.then for c in forget_less({"train": careful, "data": {"replay": {"share": 0.25}}})} == {"train.learning_rate": 5e-5}  # fmt: skip


def test_without_a_recipe_only_what_helps_everywhere() -> None:
    assert diff(forget_less({})) == "+ data.replay.share: 0.05"
