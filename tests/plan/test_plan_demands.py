"""Zeros and FLOPs beside a size: what is asked for is what is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from sprue import models
from sprue.errors import BudgetError, InputError
from sprue.models import Stream
from sprue.plan import design
from sprue.plan.demands import LEVELS, NONE, Demands
from sprue.plan.survey import survey
from sprue.plan.taken import taken
from sprue.weights import patterns


@pytest.fixture(scope="module")
def zeros(speaking: Callable[..., Path], windows: Tensor) -> Callable[[Demands], Any]:
    """demands -> source, matrices and survey with zeros tried."""
    source = models.open(speaking("llama", num_hidden_layers=2))

    def of(demands: Demands) -> SimpleNamespace:
        found = survey(Stream(source, windows), seed=0, demands=demands)
        return SimpleNamespace(source=source, parts=design.matrices(source), survey=found)

    return of


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"sparsity": 0.0}, BudgetError, "between 0% and 100%"),
        ({"sparsity": 1.0}, BudgetError, "between 0% and 100%"),
        ({"flops": 0.0}, BudgetError, "above 0%"),
        ({"flops": 1.5}, BudgetError, "at most at 100%"),
        ({"pattern": "4:2"}, InputError, "N must be below M"),
        ({"pattern": "often"}, InputError, "expected unstructured, N:M"),
        ({"pattern": "16x1"}, InputError, "add --sparsity"),
        ({"pattern": "2:4", "sparsity": 0.6}, BudgetError, "makes 50% zeros, 60% were"),
    ],
)
def test_what_cannot_be_is_refused(fields: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Demands(**fields)


def test_nothing_asked_for_is_nothing() -> None:
    assert not NONE
    assert NONE.menu((64, 64)) == []
    assert NONE.uniform() is None


@pytest.mark.parametrize("pattern", [None, "2:4", "1:4", "8x1"])
def test_the_menu_has_the_patterns_own_share_or_many(pattern: str | None) -> None:
    menu = Demands(sparsity=0.2, pattern=pattern).menu((128, 64))
    own = patterns.parse(pattern or "unstructured").sparsity
    assert {c.sparsity for c in menu} == ({own} if own else set(LEVELS))
    assert {c.pattern for c in menu} == {pattern or "unstructured"}
    assert 0 in {c.rank for c in menu}
    assert max(c.rank or 0 for c in menu) > 0


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_the_pick_has_as_many_zeros(zeros: Callable[..., Any], sparsity: float) -> None:
    demands = Demands(sparsity=sparsity)
    s = zeros(demands)
    recipe = design.for_bits(s.parts, 4.0, 0, s.survey, design.BEST, demands)
    share, bits = _shares(s.parts, recipe)
    assert share >= sparsity - 1e-12
    assert bits <= 4.0 + 1e-12
    assert len({c.sparsity for n, c in recipe.tensors.items() if n in s.parts.linears}) > 1


def test_a_pattern_alone_is_for_every_linear(zeros: Callable[..., Any]) -> None:
    demands = Demands(pattern="2:4")
    s = zeros(demands)
    recipe = design.for_bits(s.parts, 3.0, 0, s.survey, design.BEST, demands)
    assert {recipe.tensors[n].pattern for n in s.parts.linears} == {"2:4"}
    assert _shares(s.parts, recipe)[1] <= 3.0 + 1e-12


def test_a_pattern_with_fewer_zeros_goes_where_it_does_least(zeros: Callable[..., Any]) -> None:
    demands = Demands(pattern="1:4", sparsity=0.4)
    s = zeros(demands)
    recipe = design.for_bits(s.parts, 4.0, 0, s.survey, design.BEST, demands)
    assert {recipe.tensors[n].pattern for n in s.parts.linears} == {None, "1:4"}
    assert _shares(s.parts, recipe)[0] >= 0.4 - 1e-12


def test_flops_count_zeros_and_factors(zeros: Callable[..., Any]) -> None:
    demands = Demands(flops=0.7)
    s = zeros(demands)
    recipe = design.for_bits(s.parts, 5.0, 0, s.survey, design.BEST, demands)
    rows = [taken(recipe.tensors[n], shape, 32).flops for n, shape in s.parts.linears.items()]
    assert sum(rows) + 2 * prod(s.parts.head) <= 0.7 * s.parts.flops


def test_more_zeros_do_more_damage(zeros: Callable[..., Any]) -> None:
    demands = Demands(sparsity=0.5)
    s = zeros(demands)
    damages = [
        design.damage(
            s.survey,
            design.for_bits(s.parts, 4.0, 0, s.survey, design.BEST, Demands(sparsity=share)),
        )
        for share in (0.1, 0.5, 0.8)
    ]
    none = design.damage(s.survey, design.for_bits(s.parts, 4.0, 0, s.survey, design.BEST))
    assert none <= damages[0] < damages[1] < damages[2]


def test_a_head_that_takes_all_flops_is_named(zeros: Callable[..., Any]) -> None:
    s = zeros(NONE)
    with pytest.raises(BudgetError, match="the output layer alone takes"):
        Demands(flops=0.001).limits(s.parts.linears, s.parts.heads)


def test_sensitivities_change_the_pick(zeros: Callable[..., Any]) -> None:
    demands = Demands(sparsity=0.5)
    s = zeros(demands)
    name = next(iter(s.parts.linears))
    plain = design.for_bits(s.parts, 3.0, 0, s.survey, design.BEST, demands)
    more = replace(s.survey, sensitivity={name: 64.0})
    told = design.for_bits(s.parts, 3.0, 0, more, design.BEST, demands)
    a, b = plain.tensors[name], told.tensors[name]
    assert b.bits - 4 * b.sparsity > a.bits - 4 * a.sparsity


def _shares(parts: design.Matrices, recipe: Any) -> tuple[float, float]:
    """(zeros, bits a weight) of the linears."""
    rows = [taken(recipe.tensors[n], shape, 32) for n, shape in parts.linears.items()]
    kept, bits = sum(r.nonzeros for r in rows), sum(r.bits for r in rows)
    return 1 - kept / parts.weights, bits / parts.weights
