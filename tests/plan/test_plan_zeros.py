"""What zeros cost, and who bears them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sprue import models
from sprue.errors import BudgetError
from sprue.models import Stream
from sprue.models.fisher import fisher
from sprue.plan import zeros
from sprue.plan.zeros import LEVELS, Level

NAMES = ("a", "b", "c")


def _curves() -> dict[str, list[Level]]:
    """Convex ones, by factors of ten apart, of matrices of different size."""
    return {
        name: [Level(p, p, (1 - p) * size, cost * p**3) for p in LEVELS]
        for name, size, cost in zip(NAMES, (100, 400, 100), (1e-3, 1e-2, 1e-1), strict=True)
    }


@pytest.mark.parametrize("target", [0.1, 0.25, 0.5, 0.7, 0.9])
def test_sharing_out_meets_the_target_and_beats_an_even_share(target: float) -> None:
    curves = _curves()
    found = zeros.share_out(curves, target)
    total = sum(row[0].size for row in curves.values())
    read = sum(level.size for level in found.values())
    assert read <= (1 - target) * total + 1e-6
    assert read > (1 - target) * total - 0.025 * 400  # one step of the largest is left at most
    even = zeros.even(curves, target)
    assert zeros.damage(found) < zeros.damage(even)
    assert found["a"].share > found["c"].share


@pytest.mark.parametrize("target", [0.0, -0.5, 0.98, 1.0])
def test_a_share_that_cannot_be_met_is_refused(target: float) -> None:
    with pytest.raises(BudgetError, match=r"above 0% and at most at 97.5%"):
        zeros.share_out(_curves(), target)


def _stream(path: Path, ids: torch.Tensor) -> Stream:
    return Stream(models.open(str(path)), ids, 2)


def test_damage_is_that_of_the_definition(folder: Callable[..., Path], ids: torch.Tensor) -> None:
    stream = _stream(folder("llama"), ids)
    rows = fisher(stream, seed=0).rows
    curves = zeros._curves(stream, rows, lambda: None)
    seen: list[torch.Tensor] = []
    stream.observe(
        stream.load(0), 0, stream.embed(), {"mlp.down_proj": lambda x: seen.append(x.clone())}
    )
    name = "model.layers.0.mlp.down_proj"
    x, W, G = torch.cat(seen).double(), stream.source.weight(name).double(), rows[name]
    for level in (curves[name][0], curves[name][20], curves[name][39]):
        e = torch.where(x.abs() <= level.limit, x, 0.0)
        expected = 0.5 * float(((e @ W.T).square().mean(0) * G).sum())
        assert level.damage == pytest.approx(expected, rel=1e-4, abs=1e-15)
        assert float((e != 0).double().mean()) == pytest.approx(level.share, abs=1 / x.numel())


def test_the_corrected_total_is_the_divergence_that_was_measured(
    folder: Callable[..., Path], ids: torch.Tensor
) -> None:
    stream = _stream(folder("gpt2"), ids)
    curves = zeros.measure(stream, 0)
    plain = zeros._curves(stream, fisher(stream, seed=0).rows, lambda: None)
    levels = zeros.share_out(plain, 0.5)
    limits = {name: level.limit for name, level in levels.items()}
    (measured,) = zeros._divergences(stream, [limits], lambda: None)
    at = {n: next(c for c in curves[n] if c.share == levels[n].share) for n in levels}
    ratio = measured / zeros.damage(levels)
    if zeros._LEAST < ratio < zeros._MOST:
        assert zeros.damage(at) == pytest.approx(measured, rel=1e-6)
    ratios = {n: at[n].damage / levels[n].damage for n in levels if levels[n].damage > 1e-9}
    assert len({round(r, 6) for r in ratios.values()}) > 1  # kinds and stretches differ


def test_the_divergence_is_that_of_whole_models(
    folder: Callable[..., Path], ids: torch.Tensor
) -> None:
    from transformers import AutoModelForCausalLM

    stream = _stream(folder("qwen2"), ids)
    limits = {"model.layers.1.mlp.up_proj": 0.7, "model.layers.2.self_attn.v_proj": 0.5}
    (found,) = zeros._divergences(stream, [limits], lambda: None)
    model = AutoModelForCausalLM.from_pretrained(folder("qwen2")).eval()
    with torch.no_grad():
        p = model(ids).logits.double().log_softmax(-1)
        for name, limit in limits.items():
            model.get_submodule(name).register_forward_pre_hook(
                lambda _, x, t=limit: (torch.where(x[0].abs() <= t, 0.0, x[0]),)
            )
        q = model(ids).logits.double().log_softmax(-1)
    expected = float((p.exp() * (p - q)).sum(-1).mean())
    assert found == pytest.approx(expected, rel=1e-3)


def test_curves_change_with_the_calibration_and_not_with_the_run(
    folder: Callable[..., Path], ids: torch.Tensor
) -> None:
    first, again = (zeros.measure(_stream(folder("llama"), ids), 0) for _ in range(2))
    assert first == again
    assert zeros.measure(_stream(folder("llama"), ids.flip(1)), 0) != first


def test_at_most_eight_stretches(folder: Callable[..., Path], ids: torch.Tensor) -> None:
    stream = _stream(folder("llama"), ids)
    names = [name for some in zeros._stretches(stream) for name in some]
    assert sorted(names) == sorted(name for some in zeros._kinds(stream) for name in some)
    assert len(names) == len(set(names))
