"""What a matrix could do without, against plain least squares and singular values in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sprue.structure import options, redundancy
from sprue.structure.findings import DEAD, HALF, INT4, INT8, QUARTER, RANK, SPARSE
from sprue.structure.redundancy import Outputs, Removal, dead, explained, rounded, spectrum
from sprue.structure.repair import Reader, eliminate, refitted

TINY = 1e-9


def moments(width: int, count: int, seed: int, rank: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(rank or width, width, generator=torch.Generator().manual_seed(7))
    X = torch.randn(count, rank or width, generator=generator) @ mix
    X += 0.1 * torch.randn(count, width, generator=generator)
    return X.T @ X / count


def matrix(out: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(out, width, generator=torch.Generator().manual_seed(seed))


def outputs(W: Tensor, H: Tensor, variances: Tensor | None = None) -> Outputs:
    """Of inputs whose mean is zero."""
    found = redundancy.squares(W, H)
    return Outputs(found, found if variances is None else variances)


def alike(W: Tensor, H: Tensor) -> Outputs:
    """As if all outputs varied alike: what is lost is then the share of the mean square."""
    found = redundancy.squares(W, H)
    return Outputs(found, torch.full_like(found, float(found.sum())))


def removal(W: Tensor, H: Tensor, held: Tensor, under: int = 1, **options: Any) -> Removal:
    return redundancy.removal(W, H, held, alike(W, held), under, **options)


def lost(W: Tensor, V: Tensor, H: Tensor) -> float:
    D, E = (W - V).double().numpy(), H.double().numpy()
    return float(np.trace(D @ E @ D.T) / np.trace(W.double().numpy() @ E @ W.double().numpy().T))


def least(W: Tensor, H: Tensor, gone: list[int]) -> float:
    """The share that is lost at best without these columns, by numpy's least squares."""
    A, E = W.double().numpy(), H.double().numpy()
    stay = np.setdiff1d(np.arange(A.shape[1]), gone)
    root = np.linalg.cholesky(E)
    V, *_ = np.linalg.lstsq(root[stay].T, root.T @ A.T, rcond=None)
    D = A.copy()
    D[:, stay] -= V.T
    return float(((D @ E) * D).sum() / ((A @ E) * A).sum())


@pytest.mark.parametrize("under", [1, 3])
def test_what_a_removal_loses_is_what_least_squares_lose(under: int) -> None:
    W, H = matrix(7, 6 * under), moments(6 * under, 300, 1)
    found = removal(W, H, H, under, stops=(2, 4), error=0.999, damping=TINY)
    assert found.gone == (1, 2, 3, 4, 5)
    for gone, error in zip(found.gone, found.errors, strict=True):
        columns = [under * u + k for u in found.units[:gone].tolist() for k in range(under)]
        assert error == pytest.approx(least(W, H, columns), rel=1e-3)
    assert sorted({*found.refits, found.spare}) == [2, 4, 5]
    for gone, V in found.refits.items():
        assert lost(W, V, H) == pytest.approx(found.errors[gone - 1], rel=1e-3)
        assert int((V == 0).all(0).sum()) == gone * under


def test_few_inputs_leave_in_the_order_of_the_elimination() -> None:
    W, H = matrix(5, 12), moments(12, 100, 2)
    columns = torch.arange(12).view(-1, 2)
    reference = eliminate([Reader(W, H, torch.ones(5), columns)])
    found = removal(W, H, H, 2, error=0.999)
    assert tuple(found.units.tolist()) == reference.order
    energy = float(redundancy.squares(W, H).sum())
    np.testing.assert_allclose(np.array(found.errors) * energy, reference.damage, rtol=0.02)


def test_of_many_copies_one_stays() -> None:
    """200 inputs leave several at once, but never with what makes up for them."""
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(2000, 100, generator=generator)
    X = torch.cat((X, X + 1e-4 * torch.randn(2000, 100, generator=generator)), 1)
    H = X.T @ X / 2000
    found = removal(matrix(20, 200), H, H, error=0.001, damping=1e-6)
    assert found.spare in range(96, 101)
    assert len({u % 100 for u in found.units[: found.spare].tolist()}) >= 96
    assert int((found.refits[found.spare] == 0).all(0).sum()) == found.spare


def test_losses_are_those_of_examples_held_out() -> None:
    """Thirty inputs can be fitted to twenty positions without any error, and mean nothing."""
    W = matrix(4, 30)
    H, held = moments(30, 20, 4), moments(30, 5000, 5)
    found = removal(W, H, held, stops=(10,), error=0.05, damping=1e-6)
    assert lost(W, found.refits[10], H) < 0.01
    assert lost(W, found.refits[10], held) > 0.05
    assert found.spare < 10
    for gone, error in zip(found.gone, found.errors, strict=True):
        assert gone != 10 or error == pytest.approx(lost(W, found.refits[10], held), rel=1e-4)


def test_it_goes_no_further_than_it_must() -> None:
    W, H = matrix(6, 40), moments(40, 400, 6)
    assert len(removal(W, H, H, error=1e-6).units) == 1
    found = removal(W, H, H, stops=(10,), error=1e-6)
    assert len(found.units) == 10
    assert found.spare == 0
    assert list(found.refits) == [10]
    torch.testing.assert_close(
        found.refits[10],
        torch.zeros_like(W).index_copy_(
            1,
            stay := torch.tensor(sorted(set(range(40)) - set(found.units.tolist()))),
            refitted(W, H, stay),
        ),
        rtol=1e-3,
        atol=1e-4,
    )


def test_matrices_at_the_edges() -> None:
    one = removal(matrix(3, 1), torch.ones(1, 1), torch.ones(1, 1))
    assert (one.gone, one.spare, len(one.units)) == ((), 0, 0)
    none = removal(torch.zeros(3, 4), moments(4, 50, 0), moments(4, 50, 0), stops=(2,))
    assert none.spare == 3
    silent = removal(matrix(3, 4), torch.zeros(4, 4), torch.zeros(4, 4))
    assert silent.spare == 3
    zero = torch.zeros(3, 4)
    flat = spectrum(zero, torch.eye(4), torch.eye(4), outputs(zero, torch.eye(4)))
    assert flat.within(0.01) == 0
    with pytest.raises(ValueError, match="NaN or infinity"):
        removal(matrix(3, 4), torch.full((4, 4), torch.nan), torch.eye(4))
    with pytest.raises(ValueError, match="an indefinite matrix"):
        removal(matrix(3, 2), torch.tensor([[1.0, 3.0], [3.0, 1.0]]), torch.eye(2))


def test_rounding_does_not_stop_it() -> None:
    """A second moment of rank one, whose smallest eigenvalues single precision makes negative."""
    x = 1 + torch.rand(300, generator=torch.Generator().manual_seed(0))
    H = torch.outer(x, x) - 3e-4 * torch.eye(300)
    assert float(torch.linalg.eigvalsh(H)[0]) < 0
    assert removal(matrix(3, 300), H, torch.outer(x, x)).spare > 290


def test_huge_outputs_hide_no_others() -> None:
    """What the mean square does not notice, the variances do."""
    W, H = matrix(8, 10), moments(10, 500, 12)
    W[0] *= 1000
    found = outputs(W, H)
    D = torch.zeros_like(W)
    D[1:] = -W[1:]  # all but one output are gone
    assert lost(W, W + D, H) < 1e-4
    assert float(found.lost(redundancy.squares(D, H))) == pytest.approx(7 / 8)
    strict = redundancy.removal(W, H, H, found, error=0.05)
    assert strict.spare < removal(W, H, H, error=0.05).spare
    for gone, error in zip(strict.gone, strict.errors, strict=True):
        if gone == strict.spare:
            V = strict.refits[gone]
            each = float((redundancy.squares(V - W, H) / redundancy.squares(W, H)).mean())
            assert error == pytest.approx(max(each, lost(W, V, H)), rel=1e-3)
    ranks = spectrum(W, H, H, found)
    assert ranks.within(0.05) > spectrum(W, H, H, alike(W, H)).within(0.05)


def test_a_large_mean_hides_nothing() -> None:
    """An output that is 100 but for a little: its variance is what counts."""
    x = torch.randn(4000, 4, generator=torch.Generator().manual_seed(1))
    x[:, 0] = 100
    W, H = torch.tensor([[1.0, 1.0, 0.5, 0.1]]), x.T @ x / 4000
    found = Outputs.of(W, H, x.mean(0))
    assert float(found.variances[0]) == pytest.approx(float((x @ W.T).var()), rel=0.02)
    errors = redundancy.squares(torch.tensor([[0.0, -1.0, 0.0, 0.0]]), H)
    assert float(found.lost(errors)) == pytest.approx(1 / 1.26, rel=0.05)
    still = Outputs.of(torch.tensor([[1.0, 0, 0, 0]]), H, x.mean(0))
    assert float(still.variances[0]) == 0
    assert float(still.lost(still.squares / 4)) == pytest.approx(0.25)


@pytest.mark.parametrize(("out", "width"), [(6, 20), (20, 6), (9, 9)])
def test_ranks_lose_the_tail_of_the_singular_values(out: int, width: int) -> None:
    W, H = matrix(out, width), moments(width, 300, 8)
    values, vectors = np.linalg.eigh(H.double().numpy())
    root = vectors * np.sqrt(values) @ vectors.T
    s = np.linalg.svd(W.double().numpy() @ root, compute_uv=False) ** 2
    found = spectrum(W, H, H, alike(W, H))
    tail = 1 - np.concatenate(([0], s.cumsum())) / s.sum()
    np.testing.assert_allclose(found.errors, tail, atol=1e-7)  # of float32 matrices
    for rank in (1, 3):
        V = found.project(W, rank)
        assert int(torch.linalg.matrix_rank(V)) == rank
        assert lost(W, V, H) == pytest.approx(tail[rank], rel=1e-3)
    assert found.within(0.05) == int((tail > 0.05).sum())


def test_ranks_are_measured_on_what_was_held_out() -> None:
    W, H, held = matrix(5, 8), moments(8, 6, 9), moments(8, 900, 10)
    found = spectrum(W, H, held, outputs(W, held))
    for rank in range(5):
        errors = redundancy.squares(W - found.project(W, rank), held)
        expected = outputs(W, held).lost(errors)
        assert float(found.errors[rank]) == pytest.approx(float(expected), abs=1e-5)


def test_an_embedding_has_a_diagonal() -> None:
    W, h = matrix(4, 30), torch.rand(30, generator=torch.Generator().manual_seed(1))
    H = torch.diag(h)
    a, b = spectrum(W, h, h, outputs(W, h)), spectrum(W, H, H, outputs(W, H))
    np.testing.assert_allclose(a.errors, b.errors, atol=1e-6)


def test_dead_connections_are_told_by_what_they_contribute() -> None:
    W = torch.tensor([[1.0, 0.01, 3.0], [2.0, 1.0, 0.0]])
    H = torch.diag(torch.tensor([1.0, 1e-6, 1.0]))
    found = dead(W, H, 0.01)
    assert found.connections.tolist() == [[False, True, False], [False, True, True]]
    assert found.inputs.tolist() == [False, True, False]
    assert dead(W, H.diagonal(), 0.01).connections.equal(found.connections)
    assert dead(torch.zeros(2, 3), H, 0.01).inputs.all()


def test_inputs_of_a_kernel_are_dead_together() -> None:
    """Two columns that are dead alone, and not together: they have one sign."""
    W = torch.tensor([[1.0, 1.0, 0.007, 0.007]])
    H = torch.ones(4, 4)
    found = dead(W, H, 0.005, under=2)
    assert found.connections.tolist() == [[False, False, True, True]]
    assert found.inputs.tolist() == [False, False]
    assert dead(W, H, 0.008, under=2).inputs.tolist() == [False, True]


def features(count: int, seed: int) -> Tensor:
    """Six: the fourth is the sum of the first two, the fifth the third again, the sixth flat."""
    X = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    X = torch.cat((X, X[:, :1] + X[:, 1:2], 5 * X[:, 2:3], torch.zeros(count, 1)), 1)
    return X.T @ X / count


def test_repeated_features_count_once() -> None:
    found = explained(features(100, 0), features(100, 1), 0.99)
    assert int(found.sum()) == 2
    assert found[[2, 4]].sum() == 1
    assert found[[0, 1, 3]].sum() == 1
    assert not found[5]
    assert not explained(torch.eye(5), torch.eye(5), 0.99).any()
    assert not explained(torch.zeros(5, 5), torch.zeros(5, 5), 0.99).any()


def test_noise_repeats_nothing_up_to_its_share() -> None:
    C = features(1000, 2)[:5, :5]
    C = C + 0.05 * C[2, 2] * torch.diag(torch.tensor([0.0, 0.0, 0.0, 0.0, 25.0]))
    assert int(explained(C, C, 0.99).sum()) == 1  # of the third and the fifth both stay
    assert int(explained(C, C, 0.9).sum()) == 2


def test_chance_repeats_nothing() -> None:
    """Thirty features at 25 positions are combinations of one another, and so nowhere else."""
    X = torch.randn(25, 30, generator=torch.Generator().manual_seed(3))
    C = X.T @ X / 25
    assert int(explained(C, C, 0.99).sum()) >= 5
    assert not explained(C, torch.eye(30), 0.5).any()


@pytest.mark.parametrize(("bits", "group"), [(8, None), (4, 4)])
def test_grids_hold_the_nearest_level(bits: int, group: int | None) -> None:
    W = matrix(3, 10)
    found, size, top = rounded(W, bits, group), group or 10, 2 ** (bits - 1) - 1
    for row in range(3):
        for first in range(0, 10, size):
            w = W[row, first : first + size]
            levels = w.abs().max() / top * torch.arange(-top, top + 1)
            nearest = levels[(w[:, None] - levels).abs().argmin(1)]
            torch.testing.assert_close(found[row, first : first + size], nearest)
    assert not rounded(torch.zeros(2, 3), bits, group).any()


def test_options_save_what_they_say() -> None:
    W, H = matrix(16, 24), moments(24, 200, 11)
    found = removal(W, H, H, 3, stops=options.parts(8))
    every = [
        *options.grids(W),
        options.two_of_four(W, H.diagonal(), 3),
        *options.half_rank(W, spectrum(W, H, H, outputs(W, H))),
        *options.fewer_inputs(W, found, 8),
        *options.without_dead(W, W.abs() < 0.1),
    ]
    numbers = {c.technique: c for c in every}
    assert list(numbers) == [INT8, INT4, SPARSE, RANK, QUARTER, HALF, DEAD]
    whole = 4 * W.numel()
    assert numbers[INT8].nbytes == whole - (W.numel() + 16 * 4)
    assert numbers[INT4].nbytes == whole - (W.numel() / 2 + 16 * 2)
    assert numbers[SPARSE].nbytes == whole - W.numel() / 2 * 4.25
    rank = int(torch.linalg.matrix_rank(W + numbers[RANK].D, tol=1e-3))
    assert rank == 4
    assert numbers[RANK].nbytes == whole - 4 * rank * 40
    for technique, gone in ((QUARTER, 6), (HALF, 12)):
        change = numbers[technique]
        assert int(((W + change.D) == 0).all(0).sum()) == gone
        assert change.nbytes == pytest.approx(4 * 16 * gone)
        assert change.kept == pytest.approx(1 - gone / 24)
    zeros = int((W.abs() < 0.1).sum())
    assert int(((W + numbers[DEAD].D) == 0).sum()) == zeros
    assert numbers[DEAD].nbytes == pytest.approx(4 * zeros - W.numel() / 8)
    assert [c.kept for c in every[:3]] == [1, 1, 0.5]


def test_what_is_spare_leaves_by_the_better_way() -> None:
    """A matrix of rank two, and one that needs three of its twelve inputs."""
    H = moments(12, 400, 13)
    low = matrix(10, 2) @ matrix(2, 12)
    few = matrix(10, 12) * (torch.arange(12) < 3)
    for W, saved in ((low, 120 - 2 * 22), (few, 120 - 3 * 10)):
        found = outputs(W, H)
        gone, ranks = redundancy.removal(W, H, H, found), spectrum(W, H, H, found)
        (change,) = options.spare(W, ranks, ranks.within(0.01), gone, 12)
        assert change.nbytes == pytest.approx(4 * saved)
        assert change.kept == pytest.approx(1 - saved / 120)
        assert lost(W, W + change.D, H) < 0.01
    W = matrix(10, 12)
    found = outputs(W, torch.eye(12))
    gone = redundancy.removal(W, torch.eye(12), torch.eye(12), found)
    assert not list(options.spare(W, spectrum(W, H, H, found), 10, gone, 12))


def test_two_of_four_stay_by_what_they_contribute() -> None:
    """Of four channels next to one another, at each place of the kernel."""
    W, mean = matrix(5, 16), torch.rand(16, generator=torch.Generator().manual_seed(2))
    D = options.two_of_four(W, mean, 2).D
    for row in range(5):
        for place in range(2):
            for four in (range(place, 8, 2), range(8 + place, 16, 2)):
                score = (W[row].abs() * mean.sqrt())[list(four)]
                stays = (W[row] + D[row])[list(four)] != 0
                assert set(stays.nonzero()[:, 0].tolist()) == set(score.topk(2).indices.tolist())


def test_little_matrices_offer_little() -> None:
    W = matrix(1, 2)
    assert options.parts(2) == (1, 1)
    one = spectrum(W, torch.eye(2), torch.eye(2), outputs(W, torch.eye(2)))
    assert not list(options.half_rank(W, one))
    assert not list(options.without_dead(W, torch.zeros(1, 2, dtype=torch.bool)))
