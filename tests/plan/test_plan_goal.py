"""What the user asks for: what contradicts itself, and what the answer is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sprue.errors import BudgetError, InputError, SprueError
from sprue.plan.goal import DEFAULT_BITS, Goal
from sprue.plan.recipe import Recipe
from sprue.weights.choice import Choice

NOTHING: dict[str, Any] = dict.fromkeys(("preset", "bits", "size", "recipe", "seed"))


def stated(**given: Any) -> Goal:
    return Goal.stated(**NOTHING | given)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A recipe of seed 5 for one matrix of the tiny llama."""
    path = tmp_path / "recipe.yaml"
    recipe = Recipe({"model.layers.0.mlp.up_proj": Choice("int", 4, group_size=None)}, seed=5)
    path.write_text(recipe.to_yaml())
    return path


def test_without_a_budget_it_is_four_bits() -> None:
    assert stated() == Goal("best", DEFAULT_BITS, None, None, 0)
    assert DEFAULT_BITS == 4


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"bits": 3, "size": "30%"}, InputError, "one of bits, size and recipe, not bits and size"),
        ({"bits": 3, "recipe": "r"}, InputError, "not bits and recipe"),
        ({"recipe": "r", "preset": "gptq"}, InputError, "leave out the preset"),
        ({"preset": "awq"}, InputError, "known are rtn"),
        ({"preset": "best"}, InputError, "known are rtn"),
        ({"bits": 0}, BudgetError, "above 0 and at most 16, received 0"),
        ({"bits": -1.5}, BudgetError, r"received -1\.5"),
        ({"bits": 99}, BudgetError, "received 99"),
        ({"bits": float("nan")}, BudgetError, "received nan"),
        ({"bits": float("inf")}, BudgetError, "received inf"),
        ({"seed": -1}, InputError, "seed of 0 to 4294967295, received -1"),
        ({"seed": 2**32}, InputError, "received 4294967296"),
        ({"recipe": "no such file"}, InputError, "there is no recipe"),
    ],
)
def test_what_contradicts_itself(
    given: dict[str, Any], error: type[SprueError], words: str
) -> None:
    with pytest.raises(error, match=words):
        stated(**given)


def test_a_recipe_brings_its_seed_unless_another_is_given(file: Path) -> None:
    assert stated(recipe=file).seed == 5
    other = stated(recipe=file, seed=0)
    assert other.seed == 0
    assert other.recipe is not None
    assert other.recipe.seed == 0


@pytest.mark.parametrize(
    ("given", "measures", "trellis"),
    [({}, True, True), ({"preset": "gptq"}, False, False), ({"preset": "caldera"}, False, True)],
)
def test_what_it_takes(given: dict[str, str], measures: bool, trellis: bool) -> None:
    goal = stated(**given)
    assert (goal.measures, goal.trellis) == (measures, trellis)


def test_what_a_recipe_takes(file: Path) -> None:
    goal = stated(recipe=file)
    assert (goal.measures, goal.trellis) == (True, False)


def test_a_size_is_of_the_original() -> None:
    assert stated(size="30%").limit(1000) == 300
    assert stated(bits=3).limit(1000) is None
    with pytest.raises(BudgetError):
        stated(size="200%").limit(1000)


def test_a_plan_for_each_kind_of_goal(surveyed: Any, file: Path) -> None:
    on = surveyed("llama")
    best = stated(bits=3.0, seed=9)
    assert best.plan(on.parts, None, on.survey).seed == 9
    half = on.source.nbytes // 6
    assert best.plan(on.parts, half, on.survey).preset == "best"
    assert stated(preset="gptq", bits=4.5).plan(on.parts, None, None).preset == "gptq"
    assert len(stated(recipe=file).plan(on.parts, None, None).tensors) == 1


def test_what_cannot_be_is_refused_before_any_work(surveyed: Any, file: Path) -> None:
    on = surveyed("gpt2")
    for goal, limit in (
        (stated(bits=0.1), None),
        (stated(size="1"), 1),
        (stated(preset="gptq", bits=1.5), None),
        (stated(preset="svd", bits=0.01), None),
        (stated(preset="caldera", size="1"), 1),
    ):
        with pytest.raises(BudgetError, match="give more"):
            goal.check(on.parts, limit)
    with pytest.raises(InputError, match="this model does not have"):
        stated(recipe=file).check(on.parts, None)
