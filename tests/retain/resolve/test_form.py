"""The run form and the recipe are the same thing in two shapes."""

import pytest

from retain.errors import ConfigError
from retain.resolve.form import HEADLINES, SETTINGS, SHOWN, from_form, short_form, to_form
from retain.resolve.recipe import load, recipes


def test_every_shipped_recipe_survives_the_form() -> None:
    assert set(recipes()) >= {"quickstart", "naive"}
    for name in recipes():
        assert from_form(to_form(load(name))) == load(name)


def test_a_form_is_flat_and_has_no_null() -> None:
    form = to_form(load("quickstart"))
    assert set(form) == set(HEADLINES) | set(SETTINGS)
    for name, value in form.items():
        for entry in value.values() if isinstance(value, dict) else [value]:
            assert isinstance(entry, str | int | float | bool), name


def test_whole_numbers_may_arrive_as_floats() -> None:
    form = to_form(load("quickstart"))
    form["train_settings"] = {k: float(v) if type(v) is int else v for k, v in form["train_settings"].items()}
    assert from_form(form) == load("quickstart")


def test_a_misspelled_setting_names_its_path_and_the_nearest() -> None:
    form = to_form(load("quickstart"))
    form["gate_settings"] = {"lookz": 4}
    with pytest.raises(ConfigError, match=r"gate\.lookz: no such setting; did you mean 'looks'"):
        from_form(form)


def test_a_headline_is_not_a_setting_too() -> None:
    form = to_form(load("quickstart"))
    form["train_settings"] = {"method": "full"}
    with pytest.raises(ConfigError, match="set train_method instead"):
        from_form(form)


def test_headlines_move_the_recipe() -> None:
    form = to_form(load("quickstart")) | {
        "train_method": "full",
        "train_epochs": 7,
        "score_benchmarks": "core, piqa",
        "gate_max_drop": 3.5,
    }
    recipe = from_form(form)
    assert (recipe.train.method, recipe.train.num_train_epochs, recipe.gate.macro_margin_points) == ("full", 7, 3.5)
    assert [task.name for task in recipe.score.tasks] == ["core", "piqa"]


def test_a_rate_of_zero_is_the_methods_own() -> None:
    form = to_form(load("quickstart", ["train.learning_rate=auto"]))
    assert form["train_learning_rate"] == 0.0
    assert from_form(form).train.learning_rate == "auto"
    assert from_form(form | {"train_learning_rate": 5e-5}).train.learning_rate == 5e-5


def test_the_form_a_person_sees_is_short_and_means_the_same() -> None:
    for name in recipes():
        form = short_form(load(name))
        assert from_form(form) == load(name)
        for parameter in SETTINGS:
            room = 18 + 8 * (name == "domains")  # two files for each of its domains
            assert len(form[parameter]) <= room, (name, parameter)


def test_every_shown_setting_exists() -> None:
    form = to_form(load("quickstart"))
    for parameter, keys in SHOWN.items():
        assert set(keys) <= set(form[parameter]), parameter
