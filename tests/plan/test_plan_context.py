"""Sensitivities measured in the compressed context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sprue.models import Stream, get_weight, set_weight
from sprue.plan import context, design
from sprue.plan.context import Context, shrunk, windows_for


def measured(s: Any, ids: Tensor, bits: float = 3.0) -> Context:
    recipe = design.for_bits(s.parts, bits, 0, s.survey, design.BEST)
    return Context(Stream(s.source, ids), s.survey, recipe)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi"])
def test_every_linear_is_measured_and_the_prediction_is_near(
    name: str, surveyed: Callable[[str], Any], windows: Tensor
) -> None:
    s = surveyed(name)
    c = measured(s, windows)
    found = c.sensitivities()
    assert set(found) == set(s.parts.linears)
    # a rough guess for a random tiny model; a measurement gone wrong is farther off
    assert 0.2 < float(np.median(list(found.values()))) < 5


def test_it_is_what_putting_a_matrix_back_by_hand_gives(
    surveyed: Callable[[str], Any], windows: Tensor
) -> None:
    """A forward pass of the whole model for each variant, without any stream."""
    s = surveyed("llama")
    ids = windows[:2]
    c = measured(s, ids)
    dense: dict[str, Tensor] = {}
    real = c._compressed

    def keep(name: str, H: Tensor) -> Tensor:
        dense[name] = real(name, H)
        return dense[name]

    c._compressed = keep  # type: ignore[method-assign]
    found = c.measured()
    name = list(dense)[3]
    W = s.source.weight(name)
    original = logits(s, ids, {})
    rest = {n: D for n, D in dense.items() if n != name}
    whole, without, turned = (
        kl(original, logits(s, ids, rest | mine))
        for mine in ({name: dense[name]}, {}, {name: 2 * W - dense[name]})
    )
    expected = (whole + turned) / 2 - without
    np.testing.assert_allclose(found[name], expected.numpy(), rtol=1e-3, atol=1e-7)


def test_the_same_twice_and_the_survey_is_not_changed(
    surveyed: Callable[[str], Any], windows: Tensor
) -> None:
    s = surveyed("llama")
    a, b = (measured(s, windows).sensitivities() for _ in range(2))
    assert a == b
    assert not s.survey.sensitivity
    name = next(iter(a))
    told = replace(s.survey, sensitivity={name: 2.0})
    assert told.damage(name, 3.0) == pytest.approx(2 * s.survey.damage(name, 3.0))


def test_noise_is_not_believed_and_differences_are() -> None:
    rng = np.random.default_rng(0)
    level = rng.uniform(0.5, 2, 6)
    noise = shrunk(1 + 0.5 * rng.standard_normal((40, 6)))
    assert np.ptp(noise) < 0.5
    truth = np.linspace(0.5, 2, 40)
    told = shrunk(truth[:, None] + 0.05 * rng.standard_normal((40, 6)) + level)
    np.testing.assert_allclose(told - told.mean(), truth - truth.mean(), atol=0.15)
    assert (shrunk(np.full((3, 2), -1.0)) > 0).all()


def test_larger_models_take_fewer_windows() -> None:
    assert windows_for(14) == 8
    assert windows_for(42) == 4
    assert windows_for(10_000) == 2
    assert context.TOKENS >= 128


def logits(s: Any, ids: Tensor, matrices: dict[str, Tensor]) -> Tensor:
    """Of the model as a user loads it, some of its matrices replaced."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(s.source.path, dtype=torch.float32).eval()
    for name, matrix in matrices.items():
        parent, _, local = name.rpartition(".")
        set_weight(model.get_submodule(parent), local, matrix)
        assert get_weight(model.get_submodule(parent), local).shape == matrix.shape
    with torch.no_grad():
        found: Tensor = model(ids).logits
    return found


def kl(a: Tensor, b: Tensor) -> Tensor:
    """[windows], nats per token."""
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean(-1).double()
