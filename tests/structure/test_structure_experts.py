"""Groups, router and repair: against slow references, and against the simple ways."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from sprue.structure import experts as structure
from sprue.structure.experts import SHARED, Dense, Refit, Router

WIDTH, NEURONS, EXPERTS, ACTIVE, TOKENS = 12, 24, 4, 1, 600


def planted(seed: int = 0) -> tuple[Dense, Tensor, Tensor]:
    """A gated layer whose neurons fire in four groups, one for each kind of token; x; the groups.

    Tokens of kind e lie around a corner of their own, and the gates of group e open there alone.
    """
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(NEURONS) % EXPERTS
    corners = 4 * torch.eye(EXPERTS, WIDTH)
    kinds = torch.randint(EXPERTS, (TOKENS,), generator=g)
    x = corners[kinds] + 0.3 * torch.randn(TOKENS, WIDTH, generator=g)
    gate = 2 * corners[labels] - corners.sum(0) + 0.1 * torch.randn(NEURONS, WIDTH, generator=g)
    up, down = (torch.randn(*s, generator=g) for s in ((NEURONS, WIDTH), (WIDTH, NEURONS)))
    return Dense(up, down, nn.functional.silu, gate=gate), x, labels


def lost(dense: Dense, x: Tensor, labels: Tensor, router: Router) -> float:
    """Share of the output's energy that is not computed."""
    mask = router.chosen(x, ACTIVE)[:, labels]
    y = (dense.hidden(x) * mask) @ dense.down.T
    return float((y - dense(x)).square().sum() / dense(x).square().sum())


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two labelings are the same groups under other names."""
    return any(torch.equal(torch.tensor(p)[a], b) for p in permutations(range(EXPERTS)))


def test_planted_groups_are_found() -> None:
    dense, x, labels = planted()
    found = structure.group(structure.energy(dense, x), x, EXPERTS, ACTIVE, seed=0)
    assert same(found, labels)
    again = structure.group(structure.energy(dense, x), x, EXPERTS, ACTIVE, seed=0)
    assert torch.equal(found, again)


def test_groups_and_router_lose_less_than_the_simple_ways() -> None:
    dense, x, _ = planted(1)
    energies = structure.energy(dense, x)
    good = structure.group(energies, x, EXPERTS, ACTIVE, seed=0)
    router = structure.router(x, structure.strengths(dense, x, good, EXPERTS))
    chance = structure.by_chance(NEURONS, EXPERTS, seed=0)
    theirs = structure.router(x, structure.strengths(dense, x, chance, EXPERTS))
    blind = Router(torch.randn(EXPERTS, WIDTH, generator=torch.Generator().manual_seed(0)),
                   torch.zeros(EXPERTS))  # fmt: skip
    least = lost(dense, x, good, router)
    assert least < 0.1
    assert least < 0.2 * lost(dense, x, chance, theirs)
    assert least < 0.2 * lost(dense, x, good, blind)


def test_groups_follow_the_calibration() -> None:
    dense = planted()[0]
    spread, shifted = (
        torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(s)) for s in (1, 2)
    )
    shifted[:, :6] *= 4
    a, b = (
        structure.group(structure.energy(dense, x), x, EXPERTS, ACTIVE, seed=0)
        for x in (spread, shifted)
    )
    assert not same(a, b)


@pytest.mark.parametrize("neurons", [24, 26, 27])
def test_groups_are_balanced(neurons: int) -> None:
    g = torch.Generator().manual_seed(2)
    energies, x = torch.rand(50, neurons, generator=g), torch.randn(50, 5, generator=g)
    for labels in (
        structure.group(energies, x, EXPERTS, 2, seed=0),
        structure.by_chance(neurons, EXPERTS, seed=0),
        structure.by_profile(structure.profiles(energies, 0), EXPERTS, seed=0),
    ):
        counts = labels.bincount(minlength=EXPERTS).tolist()
        assert sorted(counts, reverse=True) == structure.sizes(neurons, EXPERTS)


def test_constant_and_dead_neurons_do_no_harm() -> None:
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    for energies in (torch.zeros(40, 8), torch.ones(40, 8)):
        labels = structure.group(energies, x, 2, 1, seed=0)
        assert labels.bincount().tolist() == [4, 4]


def test_reassignment_is_the_best_one() -> None:
    worth = torch.rand(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    best = max(float(worth[range(6), list(p)].sum()) for p in set(permutations(labels.tolist())))
    found = structure.reassigned(labels, worth)
    assert float(worth[torch.arange(6), found].sum()) == pytest.approx(best)


def test_reassignment_in_parts_keeps_sizes_and_never_falls() -> None:
    g = torch.Generator().manual_seed(0)
    worth, labels = torch.rand(2500, 5, generator=g), structure.by_chance(2500, 5, seed=1)
    found = structure.reassigned(labels, worth)
    total = [float(worth[torch.arange(2500), some].sum()) for some in (labels, found)]
    assert torch.equal(found.bincount(), labels.bincount())
    assert total[1] > 1.3 * total[0]


def test_strengths_are_the_norms_of_what_groups_add() -> None:
    dense, x, labels = planted()
    found = structure.strengths(dense, x, labels, EXPERTS)
    for t in (0, 7):
        for e in range(EXPERTS):
            h = dense.hidden(x[t : t + 1].double().float())[0]
            expected = sum(h[n] * dense.down[:, n] for n in range(NEURONS) if labels[n] == e)
            assert float(found[t, e]) == pytest.approx(
                float(torch.as_tensor(expected).norm()), 1e-5
            )


def test_the_router_is_a_ridge_regression_scaled() -> None:
    dense, x, labels = planted()
    strength = structure.strengths(dense, x, labels, EXPERTS)
    X = torch.cat([x, torch.ones(TOKENS, 1)], 1).double()
    G = X.T @ X
    G += 1e-2 * G.diagonal().mean() * torch.eye(WIDTH + 1, dtype=torch.double)
    expected = X @ torch.linalg.inv(G) @ X.T @ strength.double()
    expected /= expected.std(1).mean()
    # float32 weights of a regression in float64
    torch.testing.assert_close(
        structure.router(x, strength).scores(x).double(), expected, rtol=1e-4, atol=1e-4
    )


def test_shared_neurons_have_the_most_energy() -> None:
    energies = torch.tensor([[1.0, 5.0, 0.0, 3.0], [2.0, 5.0, 0.0, 3.0]])
    assert structure.shared_neurons(energies, 2).tolist() == [1, 3]


def test_correlation_against_every_pair() -> None:
    g = torch.Generator().manual_seed(0)
    energies = torch.rand(100, 6, generator=g)
    labels = torch.tensor([0, 0, 1, 1, 1, SHARED])
    every = torch.corrcoef(energies.sqrt().T.double())
    found = structure.correlation(energies, labels, 2)
    inside = (every[2, 3] + every[2, 4] + every[3, 4]) / 3
    across = every[:2, 2:5].mean()
    assert float(found[0, 0]) == pytest.approx(float(every[0, 1]), abs=1e-5)
    assert float(found[1, 1]) == pytest.approx(float(inside), abs=1e-5)
    assert float(found[0, 1]) == pytest.approx(float(across), abs=1e-5)


def refit(dense: Dense, h: Tensor, target: Tensor) -> Refit:
    made = Refit(dense)
    made.add(h[::2], target[::2], held=False)
    made.add(h[1::2], target[1::2], held=True)
    return made


def test_repair_against_least_squares_and_before() -> None:
    dense, x, _ = planted()
    chance = structure.by_chance(NEURONS, EXPERTS, seed=0)
    router = structure.router(x, structure.strengths(dense, x, chance, EXPERTS))
    h = dense.hidden(x) * router.chosen(x, ACTIVE)[:, chance]
    target = dense(x)
    down, bias = refit(dense, h, target).solve(dampings=(1e-3,))
    Z = torch.cat([h, torch.ones(TOKENS, 1)], 1).double()
    B0 = torch.cat([dense.down.T, torch.zeros(1, WIDTH)]).double()
    weight = Z.square().sum(0)
    weight = weight.clamp_min(1e-2 * float(weight.mean()))
    # the same minimum, stacked as one least-squares problem
    stacked = torch.cat([Z, (1e-3 * weight).sqrt().diag()])
    aims = torch.cat([target.double(), (1e-3 * weight).sqrt()[:, None] * B0])
    expected = torch.linalg.lstsq(stacked, aims).solution
    torch.testing.assert_close(down.T.double(), expected[:-1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(bias.double(), expected[-1], rtol=1e-3, atol=1e-3)
    before = float((h @ dense.down.T - target).square().sum())
    assert float((h @ down.T + bias - target).square().sum()) < 0.7 * before


def test_few_tokens_are_damped_more() -> None:
    dense, x, _ = planted()
    g = torch.Generator().manual_seed(3)
    h = dense.hidden(x[:20])
    target = h @ dense.down.T + 5 * torch.randn(20, WIDTH, generator=g)  # nothing to learn
    free = refit(dense, h, target).solve(dampings=(1e-3,))[0]
    chosen = refit(dense, h, target).solve()[0]
    assert float((chosen - dense.down).norm()) < 0.5 * float((free - dense.down).norm())


def test_repair_leaves_alone_what_is_right() -> None:
    dense, x, _ = planted()
    down, bias = refit(dense, dense.hidden(x), dense(x)).solve()
    torch.testing.assert_close(down, dense.down, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bias, torch.zeros(WIDTH), rtol=1e-4, atol=1e-4)
