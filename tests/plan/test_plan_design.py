"""From a budget to a recipe: which matrices there are, and that the budget holds."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from sprue import models
from sprue.errors import BudgetError
from sprue.plan import design, recipe
from sprue.weights.grids import integer

Folder = Callable[..., Path]


def planned(parts: design.Matrices, made: recipe.Recipe) -> tuple[float, float]:
    """(bits of the linears, bits of embedding and head) that a recipe allows."""
    sizes = {"linears": 0.0, "outer": 0.0}
    for kind in sizes:
        for name, shape in getattr(parts, kind).items():
            choice = made.tensors[name]
            if choice.grid == "int":
                taken = integer.stored_bits(shape, int(choice.bits), choice.group_size, True)
            else:
                taken = choice.bits * prod(shape)
            sizes[kind] += taken
    return sizes["linears"], sizes["outer"]


def test_matrices_and_the_rest_are_the_model(tiny: str, speaking: Folder) -> None:
    source = models.open(speaking(tiny, torch.bfloat16))
    parts = design.matrices(source)
    shapes = [*parts.linears.values(), *parts.outer.values()]
    assert 2 * sum(prod(shape) for shape in shapes) + parts.rest == source.nbytes
    assert len(parts.outer) == (1 if source.tied else 2)
    for name, (out, width) in {**parts.linears, **parts.outer}.items():
        assert source.weight(name).shape == (out, width)
    # norms, biases, learned positions and the like: nothing large is forgotten
    assert parts.rest < 0.25 * source.nbytes


def test_a_transposed_family_is_turned(surveyed: Any) -> None:
    parts = surveyed("gpt2").parts
    assert parts.linears["transformer.h.0.attn.c_attn"] == (96, 32)
    assert parts.linears["transformer.h.0.mlp.c_proj"] == (32, 128)
    assert parts.outer == {"transformer.wte": (259, 32)}


@pytest.mark.parametrize("bits", [1.5, 2.0, 3.37, 4.0, 6.0, 7.3, 8.0])
def test_bits_are_spent_on_linears(bits: float, kind: str, surveyed: Any) -> None:
    on = surveyed(kind)
    made = design.for_bits(on.parts, bits, 7, on.survey, "best")
    linears, _ = planned(on.parts, made)
    assert 0.97 * bits < linears / on.parts.weights <= bits + 1e-9
    assert (made.preset, made.seed, made.shift, made.importance) == ("best", 7, True, True)
    for name in on.parts.outer:
        assert made.tensors[name].grid == "int"
        assert made.tensors[name].bits == 8
    recipe.check(made, {**on.parts.linears, **on.parts.outer})


@pytest.mark.parametrize("share", [0.06, 0.1, 0.15, 0.25])
def test_a_size_is_spent_on_everything(share: float, kind: str, surveyed: Any) -> None:
    on = surveyed(kind)
    size = int(share * on.source.nbytes)
    try:
        made = design.for_size(on.parts, size, 0, on.survey, "best")
    except BudgetError:
        with pytest.raises(BudgetError, match="takes at least"):
            design.check(on.parts, None, size)
        return
    design.check(on.parts, None, size)
    assert set(made.tensors) == {*on.parts.linears, *on.parts.outer}
    taken = sum(planned(on.parts, made)) / 8 + on.parts.rest
    assert taken <= size
    if share < 0.2:  # above, every matrix has the most that it can take
        assert taken > 0.97 * size


@pytest.mark.parametrize("preset", ["rtn", "gptq", "svd", "caldera"])
@pytest.mark.parametrize("share", [0.12, 0.16, 0.25])
def test_presets_keep_to_a_size(preset: str, share: float, surveyed: Any) -> None:
    on = surveyed("gpt_neox")
    size = int(share * on.source.nbytes)
    made = design.for_size(on.parts, size, 0, None, preset)
    assert (made.preset, made.shift, made.importance) == (preset, False, False)
    if preset != "svd":
        assert sum(planned(on.parts, made)) / 8 + on.parts.rest <= size + 1e-6
    recipe.check(made, {**on.parts.linears, **on.parts.outer})


def test_the_embedding_steps_down_before_linears_starve(surveyed: Any) -> None:
    on = surveyed("gpt_neox")
    codes = []
    for share in (0.3, 0.2, 0.15, 0.12):
        made = design.for_size(on.parts, int(share * on.source.nbytes), 0, None, "gptq")
        codes.append(made.tensors["gpt_neox.embed_in"].bits)
    assert codes == sorted(codes, reverse=True)
    assert codes[0] == 8
    assert codes[-1] < 8


@pytest.mark.parametrize(
    ("size", "words"),
    [(1, "do not hold what stays as it is"), (7_000, "embedding and head, even at 3 bits")],
)
def test_a_preset_says_what_does_not_fit(size: int, words: str, surveyed: Any) -> None:
    on = surveyed("gpt_neox")
    with pytest.raises(BudgetError, match=words):
        design.for_size(on.parts, size, 0, None, "caldera")


def test_what_is_impossible_is_known_before_the_survey(kind: str, surveyed: Any) -> None:
    on = surveyed(kind)
    with pytest.raises(BudgetError, match=r"linears take at least \d\.\d+ bits a weight, 0\.6"):
        design.check(on.parts, 0.6, None)
    with pytest.raises(BudgetError, match=r"at least [\d,]+ bytes .* 900 were given"):
        design.check(on.parts, None, 900)


def test_candidates_end_with_integers_above_the_trellis(surveyed: Any) -> None:
    on = surveyed("llama")
    row = design.options(on.survey, "model.layers.0.mlp.up_proj")
    assert {c.choice.bits for c in row if c.choice.grid == "int"} == {7, 8}
    undamaged = sorted(row, key=lambda c: c.size)[-1]
    assert undamaged.choice.bits == 8
    assert undamaged.damage < min(c.damage for c in row if c.choice.grid == "trellis")


def test_matrices_that_matter_more_get_more(surveyed: Any) -> None:
    """Rates follow the survey: what counts 256 times more is worth up to 4 bits more."""
    on = surveyed("llama")
    base = design.for_bits(on.parts, 3.0, 0, on.survey, "best")
    name = "model.layers.1.mlp.up_proj"
    outlook = on.survey.outlooks[name]
    raised = type(outlook)(outlook.shape, outlook.spread, outlook.scale * 256)
    found = type(on.survey)({**on.survey.outlooks, name: raised}, on.survey.importance, {})
    made = design.for_bits(on.parts, 3.0, 0, found, "best")
    assert made.tensors[name].bits > base.tensors[name].bits + 1
