"""Units that leave, against least squares over what stays, one subset at a time."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from sprue.structure.repair import Elimination, Reader, eliminate, refitted

UNITS = 5
TINY = 1e-9


def reader(k: int, seed: int, out: int = 6) -> Reader:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(200, UNITS * k, generator=generator) @ torch.randn(
        UNITS * k, UNITS * k, generator=generator
    )
    columns = torch.randperm(UNITS * k, generator=generator).view(UNITS, k)
    return Reader(
        torch.randn(out, UNITS * k, generator=generator),
        X.T @ X / len(X),
        torch.rand(out, generator=generator) + 0.1,
        columns,
    )


def lost(one: Reader, gone: tuple[int, ...]) -> float:
    """By plain least squares in numpy, float64."""
    W, H = one.W.double().numpy(), one.H.double().numpy()
    leave = one.columns[list(gone)].flatten().numpy()
    stay = np.setdiff1d(np.arange(W.shape[1]), leave)
    root = np.linalg.cholesky(H)
    V, *_ = np.linalg.lstsq(root[stay].T, root.T @ W.T, rcond=None)
    D = W.copy()
    D[:, stay] -= V.T
    return float(((D @ H) * D).sum(1) @ one.importance.double().numpy())


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("count", [1, 2])
def test_the_damage_is_that_of_least_squares(k: int, count: int) -> None:
    readers = [reader(k, seed, 4 + seed) for seed in range(count)]
    found = eliminate(readers, TINY)
    assert len(set(found.order)) == UNITS - 1
    for n in range(1, UNITS):
        exact = sum(lost(one, found.order[:n]) for one in readers)
        assert found.damage[n - 1] == pytest.approx(exact, rel=1e-5)


def test_each_time_the_least_is_lost() -> None:
    one = reader(2, 3)
    found = eliminate([one], TINY)
    for n in range(UNITS - 1):
        before = found.order[:n]
        others = [u for u in range(UNITS) if u not in before]
        best = min(others, key=lambda u: lost(one, (*before, u)))
        assert found.order[n] == best


def test_it_is_near_the_best_of_all_subsets() -> None:
    one = reader(1, 4)
    found = eliminate([one], TINY)
    best = min(lost(one, pair) for pair in combinations(range(UNITS), 2))
    assert best <= found.damage[1] * (1 + 1e-6) <= 2 * best


def test_what_another_repeats_leaves_for_nothing() -> None:
    """A unit that is a copy of another, and one that nothing reads."""
    one = reader(1, 5)
    X = torch.randn(300, UNITS, generator=torch.Generator().manual_seed(1))
    X[:, 3] = 2 * X[:, 1]
    W = one.W.clone()
    W[:, 4] = 0
    columns = torch.arange(UNITS)[:, None]
    found = eliminate([Reader(W, X.T @ X / 300, one.importance, columns)], 1e-7)
    whole = float(((W @ (X.T @ X / 300)) * W).sum(1) @ one.importance)
    assert set(found.order[:2]) & {1, 3}
    assert 4 in found.order[:2]
    assert found.damage[1] < 1e-4 * whole < found.damage[2]


def test_the_refit_makes_up_for_what_leaves() -> None:
    one = reader(2, 6)
    gone = (0, 3)
    leave = one.columns[list(gone)].flatten()
    stay = torch.tensor(sorted(set(range(UNITS * 2)) - set(leave.tolist())))
    D = one.W.clone()
    D[:, stay] -= refitted(one.W, one.H, stay, TINY)
    error = float(((D @ one.H) * D).sum(1) @ one.importance)
    assert error == pytest.approx(lost(one, gone), rel=1e-3)
    plain = one.W.clone()
    plain[:, stay] = 0
    assert error < float(((plain @ one.H) * plain).sum(1) @ one.importance)
    assert refitted(one.W.half(), one.H, stay).dtype == torch.float16


def test_nothing_is_changed() -> None:
    one = reader(2, 7)
    before: list[Tensor] = [t.clone() for t in (one.W, one.H, one.importance)]
    first: Elimination = eliminate([one])
    assert eliminate([one]) == first
    assert all(
        torch.equal(a, b) for a, b in zip(before, (one.W, one.H, one.importance), strict=True)
    )


def test_many_leave_at_once_and_the_damage_is_still_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a group is large; what left together is close to what leaves one by one."""
    generator = torch.Generator().manual_seed(9)
    X = torch.randn(400, 40, generator=generator) @ torch.randn(40, 40, generator=generator)
    X[:, 7] = X[:, 3] + 0.01 * X[:, 7]  # two that must not leave together
    W = torch.randn(6, 40, generator=generator)
    one = Reader(W, X.T @ X / 400, torch.ones(6), torch.arange(40)[:, None])
    alone = eliminate([one], TINY)
    monkeypatch.setattr("sprue.structure.repair._ONE_BY_ONE", 8)
    monkeypatch.setattr("sprue.structure.repair._ROUNDS", 8)
    found = eliminate([one], TINY)
    assert sorted(found.order) == sorted(set(found.order))
    assert len(found.order) == 39
    assert list(found.damage) == sorted(found.damage)
    for n in (20, 30, 39):  # where a round ends damages are those of least squares
        assert found.damage[n - 1] <= lost(one, found.order[:n]) * (1 + 1e-4) or n < 39
    assert found.damage[-1] == pytest.approx(lost(one, found.order), rel=1e-4)
    half = lost(one, found.order[:20])
    assert half <= 1.3 * alone.damage[19]
    early = found.order[:8]
    assert not {3, 7} <= set(early)
