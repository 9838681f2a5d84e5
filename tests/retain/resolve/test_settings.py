import pytest
from hypothesis import given
from hypothesis import strategies as st

from retain.errors import ConfigError
from retain.resolve import settings

KEY = st.from_regex(r"[a-z][a-z_]{0,6}", fullmatch=True)
SCALAR = st.integers() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=8)
TREE = st.dictionaries(
    KEY,
    st.recursive(
        SCALAR,
        lambda inner: (
            st.dictionaries(KEY, inner, min_size=1, max_size=3)
            | st.lists(st.dictionaries(KEY, inner, min_size=1, max_size=3), min_size=1, max_size=3)
        ),
        max_leaves=6,
    ),
    max_size=4,
)


@given(TREE)
def test_flat_settings_lose_nothing(tree: dict) -> None:
    assert settings.nest(settings.flatten(tree)) == tree


@given(TREE)
def test_flat_settings_are_scalars(tree: dict) -> None:
    assert all(isinstance(value, str | int | float | bool) for value in settings.flatten(tree).values())


def test_a_list_of_words_is_one_comma_text() -> None:
    assert settings.flatten({"lora": {"target_modules": ["q_proj", "v_proj"]}}) == {
        "lora.target_modules": "q_proj, v_proj"
    }


def test_a_value_is_no_group() -> None:
    with pytest.raises(ConfigError, match="'seed' is a value, not a group"):
        settings.nest({"seed": 1, "seed.low": 2})


def test_list_places_are_checked() -> None:
    tree = {"datasets": [{"path": "a"}]}
    settings.put(tree, "datasets.0.path", "b")
    settings.put(tree, "datasets.1.path", "c")
    assert tree == {"datasets": [{"path": "b"}, {"path": "c"}]}
    with pytest.raises(ConfigError, match="no place in a list of 2"):
        settings.put(tree, "datasets.7.path", "d")


def test_merge_goes_group_by_group() -> None:
    assert settings.merge({"a": {"x": 1, "y": 2}, "b": [1]}, {"a": {"y": 3}, "b": [2]}) == {
        "a": {"x": 1, "y": 3},
        "b": [2],
    }
