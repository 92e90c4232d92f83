"""Rates: within the budget, at one water level, and true to what the solver then measures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sprue.weights import packed, rates
from sprue.weights.choice import Choice
from sprue.weights.decompose import decompose
from sprue.weights.factor import inverse_factor, ridge_of
from sprue.weights.outlook import outlook


def _spread(seed: int, width: int, octaves: float, correlation: float) -> rates.Spread:
    """Variances that span so many octaves, under a random factor."""
    rng = np.random.default_rng(seed)
    U = np.triu(rng.standard_normal((width, width)) * correlation, 1)
    U += np.diag(np.exp2(rng.uniform(-octaves / 4, octaves / 4, width)))
    return rates.spread(np.exp2(rng.uniform(-octaves / 2, octaves / 2, width)), U)


SPREADS = (st.integers(0, 10**6), st.integers(1, 60), st.floats(0, 40), st.floats(0, 20))


@settings(max_examples=60, deadline=None)
@given(*SPREADS, st.floats(0.01, 16))
def test_the_budget_is_never_exceeded(
    seed: int, width: int, octaves: float, correlation: float, bits: float
) -> None:
    s = _spread(seed, width, octaves, correlation)
    rate, level = rates.allocate(s, bits)
    used = np.maximum(rate, 0)
    assert used.sum() <= bits * rates.UNIT * width
    assert ((rate == -1) | ((rate >= rates.LEAST) & (rate <= rates.MOST))).all()
    assert level > 0
    # nothing is left that a column could still take, but for a remainder below half a bit
    spare = bits * rates.UNIT * width - used.sum()
    assert (
        spare < rates.LEAST
        or not ((rate < rates.MOST) & (rate >= rates.LEAST)).any()
        or (spare < width * rates.LEAST and rate.max() == rates.MOST)
    )


@settings(max_examples=60, deadline=None)
@given(*SPREADS, st.floats(0.5, 5))
def test_every_coded_column_costs_the_water_level(
    seed: int, width: int, octaves: float, correlation: float, bits: float
) -> None:
    """To the eighth of a bit that rates are rounded to, and the eighth that is handed out."""
    s = _spread(seed, width, octaves, correlation)
    rate, level = rates.allocate(s, bits)
    cost = (s.variance * s.cost + rates._fed_back(s, level)) * 4.0 ** (-rate / rates.UNIT)
    between = (rate > rates.LEAST) & (rate < rates.MOST)
    assert (np.abs(np.log2(cost[between] / level)) <= 2 * 1.5 / rates.UNIT + 1e-6).all()
    # what costs half an eighth less than the least rate saves is not coded at all
    idle = (s.variance * s.cost + rates._fed_back(s, level))[rate < 0] / level
    assert (idle <= 4 ** ((rates.LEAST - 0.5) / rates.UNIT) * (1 + 1e-9)).all()


@settings(max_examples=15, deadline=None)
@given(*SPREADS)
def test_more_bits_never_predict_more_damage(
    seed: int, width: int, octaves: float, correlation: float
) -> None:
    s = _spread(seed, width, octaves, correlation)
    levels = [rates.level_for(s, b) for b in np.linspace(0.1, 8, 12)]
    assert levels == sorted(levels, reverse=True)
    damages = [rates.damage(s, level) for level in levels]
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(damages))
    bits, curve = rates.curve(s)
    assert (np.diff(bits) >= 0).all()
    assert (np.diff(curve) <= 1e-9 * curve[:-1]).all()


def test_alike_columns_share_alike() -> None:
    s = rates.spread(np.ones(64), np.eye(64))
    rate, _ = rates.allocate(s, 2.5)
    assert (rate == 20).all()
    rate, _ = rates.allocate(s, 2.53)
    assert sorted(set(rate)) == [20, 21]
    assert rate.sum() == int(2.53 * 8 * 64)


def test_below_half_a_bit_some_columns_are_coded() -> None:
    rate, _ = rates.allocate(rates.spread(np.ones(64), np.eye(64)), 0.25)
    assert (rate == rates.LEAST).sum() == 32
    assert (rate == -1).sum() == 32


def test_a_column_four_times_as_costly_gets_one_bit_more() -> None:
    s = rates.spread(np.repeat([1.0, 4.0], 32), np.eye(64))
    rate, _ = rates.allocate(s, 2.5)
    assert set(rate[:32]) == {16}
    assert set(rate[32:]) == {24}


def test_what_is_fed_back_makes_later_columns_wider() -> None:
    """`carried` is what a sweep adds: white errors of cost 1 in the columns before."""
    rng = np.random.default_rng(0)
    U = np.triu(rng.standard_normal((6, 6)))
    U[np.diag_indices(6)] = rng.uniform(0.5, 2, 6)
    errors = rng.standard_normal((200_000, 6)) * np.diagonal(
        U
    )  # D_j = 1 / U_jj^2 makes each cost 1
    added = [(errors[:, :j] / np.diagonal(U)[:j] @ U[:j, j]).var() for j in range(6)]
    s = rates.spread(np.ones(6), U)
    # 200,000 samples: a variance is known to 0.3%
    np.testing.assert_allclose(s.cost * added, s.carried, rtol=0.02, atol=1e-12)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _moment(width: int, decay: float) -> Tensor:
    Q = torch.linalg.qr(_normal(width, width, seed=1).double())[0]
    H = (Q * torch.arange(1, width + 1).double() ** -decay) @ Q.T
    return H.float() + 0.01 * float(H.diagonal().mean()) * torch.eye(width)


def _matrix(kind: str, out: int, width: int) -> Tensor:
    W = _normal(out, width, seed=2)
    if kind == "columns":
        return W * torch.logspace(-1, 1, width)
    if kind == "rows":
        return W * torch.logspace(-0.5, 0.5, out)[:, None]
    if kind == "low rank":
        return 0.2 * W + _normal(out, 8, seed=3) @ _normal(8, width, seed=4) / 8**0.5
    return W


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("decay", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["normal", "columns", "rows", "low rank"])
def test_the_outlook_foresees_what_is_measured(kind: str, decay: float, uneven: bool) -> None:
    """The prediction knows variances, not the correlations between columns of W, and takes the
    trellis to use uneven rows as well as could be."""
    W, H = _matrix(kind, 96, 160), _moment(160, decay)
    G = torch.logspace(-1, 1, 96) if uneven else torch.ones(96)
    foreseen = outlook(W, H, G, 0.01)
    for bits in (1.5, 4.0):
        p = decompose(W, H, Choice("trellis", bits), importance=G)
        D = W.double() - packed.dense(p.meta, p.tensors).double()
        measured = float((((D @ H.double()) * D).sum(1) * G.double()).sum())
        assert 0.65 < measured / foreseen.damage(bits) < (1.9 if uneven else 1.5)


def test_the_outlook_in_any_unit() -> None:
    W, H, G = _normal(96, 160), _moment(160, 1.0), torch.logspace(-1, 1, 96)
    plain = outlook(W, H, G, 0.01).damage(2)
    assert outlook(W, H * 2.0**30, G, 0.01).damage(2) == pytest.approx(plain * 2.0**30, rel=1e-6)
    assert outlook(W, H, G * 1e-15, 0.01).damage(2) == pytest.approx(plain * 1e-15, rel=1e-6)
    assert outlook(W, H, G * 0, 0.01).damage(2) == 0
    assert outlook(torch.zeros(96, 160), H, G, 0.01).damage(2) < 1e-30 * plain


def test_the_outlook_falls_with_bits_and_ends_where_steps_do_not_fit() -> None:
    foreseen = outlook(_normal(96, 160), _moment(160, 1.0), torch.ones(96), 0.01)
    damages = [foreseen.damage(b / 8) for b in range(4, 50)]
    assert all(b < a for a, b in pairwise(damages))
    assert foreseen.damage(0.05) == float("inf")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 50), st.floats(0, 20), st.floats(0, 6))
def test_uneven_rows_are_reverse_water_filling(
    seed: int, count: int, octaves: float, bits: float
) -> None:
    """Against the level that bisection finds: row r takes max(0, log2(w_r / level) / 2) bits."""
    w = np.exp2(np.random.default_rng(seed).uniform(-octaves / 2, octaves / 2, count))
    low, high = -200.0, float(np.log2(w.max()))
    for _ in range(200):
        middle = (low + high) / 2
        spent = np.maximum(0.5 * (np.log2(w) - middle), 0).mean()
        low, high = (middle, high) if spent > bits else (low, middle)
    left = np.minimum(w, 2.0**high).mean()
    found = float(rates.unevenness(w, np.array(bits)))
    assert found == pytest.approx(left / (w.mean() * 4.0**-bits), rel=1e-9)
    assert found <= 1 + 1e-12


def test_the_factor_of_a_real_moment_predicts_the_loss_of_the_sweep() -> None:
    """With errors that are white, the loss is the sum of their costs: the definition of D_j."""
    H = _moment(60, 1.0)
    U = inverse_factor(H, ridge_of(H, 0.01))
    damped = H.double().numpy() + ridge_of(H, 0.01) * np.eye(60)
    e = np.random.default_rng(0).standard_normal((4000, 60))
    # what a sweep leaves when column j errs by e_j: D U^-1 is e over the diagonal of U
    D = (e / np.diagonal(U)) @ U
    loss = np.einsum("ri,ij,rj->r", D, damped, D).mean()
    assert loss == pytest.approx(rates.spread(np.ones(60), U).cost.sum(), rel=0.02)
