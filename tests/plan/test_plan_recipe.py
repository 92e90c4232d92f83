"""Recipes: what is written is what is read; what does not fit is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sprue.errors import InputError
from sprue.plan import recipe as recipes
from sprue.plan.recipe import Recipe
from sprue.weights.choice import Choice

RATES = st.floats(0.5, 16, allow_nan=False)
TRELLIS = st.builds(
    Choice,
    grid=st.just("trellis"),
    bits=RATES,
    feedback=st.booleans(),
    rotate=st.sampled_from(["none", "in", "both"]),
    rank=st.none() | st.integers(0, 300),
    factor_bits=st.none() | st.sampled_from([2, 4, 8, 16]),
    damping=st.floats(1e-6, 1),
    state_bits=st.integers(9, 16),
)
INTEGER = st.builds(
    Choice,
    grid=st.just("int"),
    bits=st.integers(2, 8),
    group_size=st.none() | st.integers(1, 512),
    symmetric=st.booleans(),
    rank=st.integers(0, 300),
    refits=st.integers(0, 3),
)
CHOICES = st.one_of(TRELLIS, INTEGER, st.just(Choice("raw")), st.just(Choice("none", rank=3)))
NAMES = st.text("abc.0123_", min_size=1, max_size=12)
RECIPES = st.builds(
    Recipe,
    tensors=st.dictionaries(NAMES, CHOICES, min_size=1, max_size=6),
    preset=st.sampled_from(["best", "gptq", "3"]),
    seed=st.integers(0, 2**32 - 1),
    shift=st.booleans(),
    importance=st.booleans(),
)
TINY = {"version": 1, "tensors": {"a": {"bits": 3.0}}}


def written(path: Path, content: Any) -> Path:
    file = path / "recipe.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


@given(RECIPES)
def test_yaml_gives_the_same_recipe_back(recipe: Recipe) -> None:
    assert recipes.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe
    assert recipes.from_dict(recipe.as_dict()) == recipe


def test_the_order_of_tensors_is_kept(tmp_path: Path) -> None:
    recipe = Recipe({name: Choice() for name in ("b", "a", "c")})
    assert list(recipes.read(written(tmp_path, recipe.to_yaml())).tensors) == ["b", "a", "c"]


def test_what_is_alike_is_written_once() -> None:
    many = {str(i): Choice(bits=3.0) for i in range(9)}
    told = Recipe({**many, "odd": Choice(bits=2.5)}).as_dict()
    assert told["default"]["bits"] == 3.0
    assert told["tensors"] == {**{name: {} for name in many}, "odd": {"bits": 2.5}}


def test_a_recipe_written_by_hand_may_be_short(tmp_path: Path) -> None:
    recipe = recipes.read(written(tmp_path, "version: 1\ntensors:\n  a: {bits: 3}\n  b:\n"))
    assert recipe == Recipe({"a": Choice(bits=3), "b": Choice()})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version: 1"),
        ({"version": None}, "version: 1"),
        ({"tensors": {}}, "names no module"),
        ({"tensors": None}, "tensors should be dict, received None"),
        ({"tensors": ["a"]}, "tensors should be dict"),
        ({"tensors": {"a": 3}}, "'a': 3"),
        ({"tensors": {7: {}}}, "received 7"),
        ({"tensors": {"a": {"bits": "four"}}}, "a: bits should be int or float, received 'four'"),
        ({"tensors": {"a": {"bits": True}}}, "a: bits should be int or float, received True"),
        ({"tensors": {"a": {"bits": None}}}, "a: bits"),
        ({"tensors": {"a": {"bits": 0}}}, "above 0 and at most 16"),
        ({"tensors": {"a": {"bits": float("nan")}}}, "a: a trellis"),
        ({"tensors": {"a": {"bits": 99}}}, "a: a trellis takes"),
        ({"tensors": {"a": {"grid": "int", "bits": 2.5}}}, "2 to 8 bits, received 2.5"),
        ({"tensors": {"a": {"grid": "lattice"}}}, "grid must be one of trellis"),
        ({"tensors": {"a": {"grid": 3}}}, "grid should be str"),
        ({"tensors": {"a": {"rank": 1.5}}}, "rank should be int or null, received 1.5"),
        ({"tensors": {"a": {"rank": -1}}}, "rank must not be negative"),
        ({"tensors": {"a": {"group_size": 0}}}, "group_size must be positive"),
        ({"tensors": {"a": {"group_size": 64.0}}}, "group_size should be int or null"),
        ({"tensors": {"a": {"feedback": "no"}}}, "feedback should be bool, received 'no'"),
        ({"tensors": {"a": {"damping": 0}}}, "damping must be positive"),
        ({"tensors": {"a": {"state_bits": 20}}}, "state_bits must lie in 9 .. 16"),
        ({"tensors": {"a": {"colour": 1}}}, "unknown field 'colour'; known are grid"),
        ({"default": {"bits": "x"}}, "bits should be int or float"),
        ({"default": 3}, "default should be dict or null"),
        ({"seed": "x"}, "seed should be int"),
        ({"shift": 1}, "shift should be bool"),
        ({"preset": 4}, "preset should be str"),
        ({"tensor": {}}, "unknown field 'tensor'; known are version"),
    ],
)
def test_fields_that_do_not_fit_are_named(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    file = written(tmp_path, TINY | {"tensors": {"a": {}}} | change)
    with pytest.raises(InputError) as refused:
        recipes.read(file)
    assert words in str(refused.value)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    ["", "3", "[1]", "a: [", "\x00", "!!python/object:os.system {}", "&a [*a]", "{" * 400],
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="recipe"):
        recipes.read(written(tmp_path, content))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no recipe"):
        recipes.read(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        recipes.read(tmp_path)
    (tmp_path / "latin").write_bytes(b"version: \xff")
    with pytest.raises(InputError, match="cannot be read"):
        recipes.read(tmp_path / "latin")


SHAPES = {"a": (8, 48), "b": (48, 8)}


@pytest.mark.parametrize(
    ("name", "choice", "words"),
    [
        ("c", Choice(), "names 'c', which this model does not have .* it has a, b"),
        ("b", Choice("int", 4, group_size=9), "groups of 9 weights, its rows have 8"),
        ("a", Choice(rank=9), "a rank of 9; a matrix of 8 x 48 has at most 8"),
    ],
)
def test_a_recipe_for_another_model_is_refused(name: str, choice: Choice, words: str) -> None:
    with pytest.raises(InputError, match=words):
        recipes.check(Recipe({name: choice}), SHAPES)


@pytest.mark.parametrize(
    "choice", [Choice(), Choice("int", 4, group_size=8), Choice("int", 4, group_size=None)]
)
def test_a_recipe_that_fits_is_not(choice: Choice) -> None:
    recipes.check(Recipe({"b": choice}), SHAPES)


def test_every_field_of_a_choice_has_a_kind() -> None:
    assert {field.name for field in dataclasses.fields(Choice)} <= set(recipes._KINDS)
