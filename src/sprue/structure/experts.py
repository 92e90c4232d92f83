"""A dense feed-forward layer as experts: which neurons go together, who is asked, what is mended.

A layer y = D h(x) with neurons h = act(G x) * (U x), or act(U x) where it has no gate, becomes E
groups of neurons of which a token computes k. What a token loses is what the groups left out would
have added, so for given groups and router the kept energy is

    sum over tokens t, neurons n in the chosen groups of a_tn^2,   a_tn = |h_n(x_t)| |D_n|.

Groups and router are found in turns, each the best answer to the other: the router is the ridge
regression of what a group adds on x, and the groups are the balanced assignment of neurons by the
energy that they have on the tokens at which each group is chosen. Both steps see what will really
be computed, a linear router's mistakes included. MoEfication (Zhang et al. 2022, section 3.1)
groups by weights or co-activation and then trains a router; CMoE (Pei et al. 2025, section 4)
clusters binary activation patterns and takes rows of representative neurons as the router.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

SHARED = -1  # label of a neuron that always computes
_EXACT = 1024  # neurons that are assigned at once; more go in parts
_ROUNDS = 12  # of groups and router in turns
_SKETCH = 64  # random directions that stand for the profile of a neuron over tokens
_LLOYD = 20
_TOKENS = 4096  # at once, where something is computed for every token


@dataclass(frozen=True)
class Dense:
    """The matrices of a feed-forward layer, float32.

    Attributes:
        up: U [neurons, in].
        down: D [out, neurons].
        gate: G [neurons, in]; None where the layer has none.
        up_bias, gate_bias: [neurons] or None.
        down_bias: [out] or None.
        activation: elementwise.
    """

    up: Tensor
    down: Tensor
    activation: Callable[[Tensor], Tensor]
    gate: Tensor | None = None
    up_bias: Tensor | None = None
    gate_bias: Tensor | None = None
    down_bias: Tensor | None = None

    @property
    def neurons(self) -> int:
        """How many neurons."""
        return self.up.shape[0]

    @property
    def opening(self) -> tuple[Tensor, Tensor | None]:
        """What the activation sees of x: rows [neurons, in], and their bias [neurons] or None."""
        return (self.up, self.up_bias) if self.gate is None else (self.gate, self.gate_bias)

    def hidden(self, x: Tensor) -> Tensor:
        """h(x): [tokens, in] -> [tokens, neurons]."""
        up = torch.nn.functional.linear(x, self.up, self.up_bias)
        if self.gate is None:
            return self.activation(up)
        return self.activation(torch.nn.functional.linear(x, self.gate, self.gate_bias)) * up

    def __call__(self, x: Tensor) -> Tensor:
        """y: [tokens, in] -> [tokens, out]."""
        return torch.nn.functional.linear(self.hidden(x), self.down, self.down_bias)


@dataclass(frozen=True)
class Router:
    """Scores of the routed experts, float32: s = W x + b, the k highest compute.

    Attributes:
        weight: W [experts, in].
        bias: b [experts].
    """

    weight: Tensor
    bias: Tensor

    def scores(self, x: Tensor) -> Tensor:
        """[tokens, in] -> [tokens, experts]."""
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def chosen(self, x: Tensor, active: int) -> Tensor:
        """1 where an expert computes, else 0: [tokens, experts] float32."""
        return top(self.scores(x), active)


def top(scores: Tensor, active: int) -> Tensor:
    """1 at the `active` highest of each row, else 0; the dtype and shape of `scores`."""
    return torch.zeros_like(scores).scatter_(-1, scores.topk(active, -1).indices, 1.0)


def energy(dense: Dense, x: Tensor) -> Tensor:
    """a^2: what each neuron adds to the output of each token, [tokens, neurons], squared norm."""
    return dense.hidden(x).square_().mul_(dense.down.square().sum(0))


def sizes(neurons: int, experts: int) -> list[int]:
    """Neurons of each of `experts` experts, as even as can be, larger ones first."""
    least, more = divmod(neurons, experts)
    return [least + (i < more) for i in range(experts)]


def shared_neurons(energies: Tensor, count: int) -> Tensor:
    """Indices of the `count` neurons with the most energy over all tokens [tokens, neurons]."""
    return energies.mean(0).topk(count).indices.sort().values


def by_chance(neurons: int, experts: int, seed: int) -> Tensor:
    """Labels [neurons] int64 in 0 .. experts - 1, balanced, drawn at random."""
    labels = torch.cat([torch.full((n,), e) for e, n in enumerate(sizes(neurons, experts))])
    order = torch.randperm(neurons, generator=torch.Generator().manual_seed(seed))
    return labels[order.argsort()]


def by_profile(profiles: Tensor, experts: int, seed: int) -> Tensor:
    """Balanced k-means (Lloyd's iterations, sizes fixed).

    Args:
        profiles: [neurons, features] float32; alike goes together.
        experts: how many groups.
        seed: of the start.

    Returns:
        Labels [neurons] int64, 0 .. experts - 1.
    """
    labels = by_chance(len(profiles), experts, seed)
    centers = profiles[_spread(profiles, experts, seed)]
    for _ in range(_LLOYD):
        before = labels
        labels = reassigned(labels, -torch.cdist(profiles, centers).square())
        if torch.equal(labels, before):
            break
        centers = _sums(profiles.T, labels, experts).T / labels.bincount(minlength=experts)[:, None]
    return labels


def _spread(profiles: Tensor, experts: int, seed: int) -> list[int]:
    """First centers far from one another: k-means++ (Arthur and Vassilvitskii 2007)."""
    generator = torch.Generator().manual_seed(seed)
    picked = [int(torch.randint(len(profiles), (1,), generator=generator))]
    while len(picked) < experts:
        gap = torch.cdist(profiles, profiles[picked]).min(1).values.square() + 1e-12
        picked.append(int(torch.multinomial(gap, 1, generator=generator)))
    return picked


def profiles(energies: Tensor, seed: int) -> Tensor:
    """What co-activation sees of each neuron: [tokens, neurons] -> [neurons, features].

    The amplitudes over tokens, less their mean and scaled to norm 1, so that the inner product of
    two profiles is the correlation of two neurons; in random directions, which keep distances
    (Johnson and Lindenstrauss).
    """
    amplitude = _standardized(energies)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(len(amplitude), _SKETCH, generator=generator)
    return amplitude.T @ directions.div_(math.sqrt(_SKETCH))


def representatives(energies: Tensor, labels: Tensor, experts: int, seed: int) -> Tensor:
    """Of each group the neuron whose profile is nearest to the group's mean: [experts] int64.

    Its row of the gate is the expert's row of the router in CMoE (section 4.3).
    """
    found, every = [], profiles(energies, seed)
    for e in range(experts):
        mine = (labels == e).nonzero().flatten()
        gap = (every[mine] - every[mine].mean(0)).norm(dim=1)
        found.append(mine[gap.argmin()])
    return torch.stack(found)


def correlation(energies: Tensor, labels: Tensor, experts: int) -> Tensor:
    """Mean correlation of two neurons' amplitudes, by their groups: [experts, experts].

    Args:
        energies: of the neurons, [tokens, neurons].
        labels: [neurons]; neurons that are `SHARED` are left out.
        experts: how many groups.
    """
    routed = labels != SHARED
    mine = labels[routed]
    sums = _sums(_standardized(energies[:, routed]), mine, experts)
    count = mine.bincount(minlength=experts).float()
    pairs = count[:, None] * count - torch.diag(count)
    return (sums.T @ sums - torch.diag(count)) / pairs.clamp_min(1)  # without each with itself


def _standardized(energies: Tensor) -> Tensor:
    """Amplitudes [tokens, neurons], less their mean over tokens and of norm 1."""
    amplitude = energies.sqrt()
    amplitude -= amplitude.mean(0)
    amplitude /= amplitude.norm(dim=0).clamp_min(1e-20)
    return amplitude


def reassigned(labels: Tensor, worth: Tensor) -> Tensor:
    """Labels of the same sizes with the highest total worth.

    Exact up to 1,024 neurons; beyond that in parts, each with the sizes that it has, so that the
    total never falls.

    Args:
        labels: [neurons] int64.
        worth: [neurons, experts], of having a neuron in a group.
    """
    new = labels.clone()
    count = -(-len(labels) // _EXACT)
    for part in range(count):
        some = torch.arange(part, len(labels), count)
        seats = labels[some]
        table = worth[some][:, seats].double().numpy()
        rows, columns = linear_sum_assignment(table, maximize=True)
        new[some[torch.from_numpy(rows)]] = seats[torch.from_numpy(columns)]
    return new


def group(energies: Tensor, x: Tensor, experts: int, active: int, seed: int) -> Tensor:
    """Groups of neurons for a linear router: in turns, from a start by co-activation.

    Args:
        energies: of the neurons, [tokens, neurons].
        x: what the layer reads, [tokens, in].
        experts: how many groups.
        active: how many a token computes.
        seed: of the start.

    Returns:
        Labels [neurons] int64, 0 .. experts - 1; those with the most kept energy that were seen.
    """
    labels = by_profile(profiles(energies, seed), experts, seed)
    solve = _Ridge(x)
    best, most = labels, -1.0
    for _ in range(_ROUNDS):
        sums = _sums(energies, labels, experts)
        chosen = solve(sums.sqrt()).chosen(x, active)
        kept = float((sums * chosen).sum())
        if kept <= most * (1 + 1e-4):
            break
        best, most = labels, kept
        labels = reassigned(labels, energies.T @ chosen)
    return best


def _sums(values: Tensor, labels: Tensor, experts: int) -> Tensor:
    """Sums of columns by label: [rows, neurons] -> [rows, experts]."""
    return values @ torch.nn.functional.one_hot(labels, experts).to(values.dtype)


def strengths(dense: Dense, x: Tensor, labels: Tensor, experts: int) -> Tensor:
    """|E_e(x)|: the norm of what each group adds, [tokens, experts]."""
    h, found = dense.hidden(x), torch.empty(len(x), experts)
    for e in range(experts):
        mine = labels == e
        for some in torch.split(torch.arange(len(x)), _TOKENS):
            found[some, e] = (h[some][:, mine] @ dense.down[:, mine].T).norm(dim=1)
    return found


def router(x: Tensor, strength: Tensor) -> Router:
    """The ridge regression of `strength` [tokens, experts] on x [tokens, in]: closed form.

    The norm is regressed and not its square: it has lighter tails, and choosing by it left a
    twentieth less error than choosing by the square. Scores come out with a spread over experts
    of 1 in the mean: that does not change which are the highest, and their softmax is neither flat
    nor one single 1, from which nothing could be learned.
    """
    found = _Ridge(x)(strength)
    spread = float(found.scores(x).std(1).mean()) if strength.shape[1] > 1 else 1.0
    return Router(found.weight / max(spread, 1e-20), found.bias / max(spread, 1e-20))


class _Ridge:
    """Regressions on the same x, in float64; damped by a hundredth of the mean square of x."""

    def __init__(self, x: Tensor, damping: float = 1e-2) -> None:
        X = torch.cat([x, torch.ones(len(x), 1)], 1).double()
        self._X, G = X, X.T @ X
        G.diagonal().add_(damping * G.diagonal().mean())
        self._factor = torch.linalg.cholesky(G)

    def __call__(self, y: Tensor) -> Router:
        B = torch.cholesky_solve(self._X.T @ y.double(), self._factor).float()
        return Router(B[:-1].T.contiguous(), B[-1].contiguous())


class Refit:
    """The down projection and bias that best give the aimed-at outputs with the chosen experts.

    min over D, b of sum_t |T_t - D (m_t * h_t) - b|^2 + c sum_n w_n |D_n - D0_n|^2, with m_t the
    neurons that token t computes and w_n the energy of input n. The damping c toward the layer as
    it was is the one that does best on tokens held back.

    Args:
        dense: the layer as it was: D0, b0.
    """

    def __init__(self, dense: Dense) -> None:
        out, neurons = dense.down.shape
        bias = torch.zeros(out) if dense.down_bias is None else dense.down_bias
        self._start = torch.cat([dense.down.T, bias[None]])
        self._fit, self._held = (
            (torch.zeros(neurons + 1, neurons + 1), torch.zeros(neurons + 1, out)) for _ in "12"
        )

    def add(self, h: Tensor, target: Tensor, held: bool) -> None:
        """Masked neurons m * h [tokens, neurons] and aims T [tokens, out]; fitted, or held back."""
        Z = torch.cat([h, torch.ones(len(h), 1)], 1)
        G, R = self._held if held else self._fit
        G.addmm_(Z.T, Z)
        R.addmm_(Z.T, target - Z @ self._start)

    def solve(self, dampings: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0)) -> tuple[Tensor, Tensor]:
        """(D [out, neurons], b [out]), float32; neurons that never computed stay as they were.

        Args:
            dampings: to choose from; with nothing held back, the first.
        """
        best = min(dampings, key=self._excess) if len(dampings) > 1 else dampings[0]
        G, R = (a + b for a, b in zip(self._fit, self._held, strict=True))
        B = self._start + _damped(G, R, best)
        return B[:-1].T.contiguous(), B[-1].contiguous()

    def _excess(self, damping: float) -> float:
        """|T - Z B|^2 on what was held back, less the same of the layer as it was."""
        change = _damped(*self._fit, damping)
        G, R = self._held
        return float((change * (G @ change - 2 * R)).sum())


def _damped(G: Tensor, R: Tensor, damping: float) -> Tensor:
    """(G + damping * diag(G))^-1 R, solved in float64."""
    wide = G.double()
    weight = wide.diagonal()
    least = 1e-2 * float(weight.mean()) + 1e-20
    factor = torch.linalg.cholesky(wide + torch.diag(damping * weight.clamp_min(least)))
    solved: Tensor = torch.cholesky_solve(R.double(), factor)
    return solved.float()
