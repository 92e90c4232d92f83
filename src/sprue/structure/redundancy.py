"""How much of a matrix its outputs could do without: pure functions on W and second moments.

A layer gives y = W x. What is fitted is fitted to the second moment of x on some examples, and
what it then loses is told by that on others. With D what was changed, that is the larger of
tr(D H D^T) / tr(W H W^T), the share of the mean square of y, and the mean over outputs of
(D H D^T)_rr / Var(y_r), each at most 1: outputs that hardly vary beside a large mean, or beside a
few huge ones, would hide in the first. Fits weigh every output by its variance for the same reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sprue.weights.factor import ridge_of

_STEPS = 64  # in which the inputs of a layer leave
_COUPLED = 0.3  # above that, an input's cost changes when the other leaves
_TINY = 1e-30


@dataclass(frozen=True)
class Removal:
    """Inputs that left a layer, which was refitted to those that stay.

    Attributes:
        gone: how many had left after each step, ascending.
        errors: the share of the outputs' mean square that is lost then, on the examples held out.
        units: int64, those that left, the first to leave first.
        refits: for each number of inputs that was asked for, and for `spare`, W [out, in] with
            zeros for those.
        spare: how many can leave before more than the error is lost.
    """

    gone: tuple[int, ...]
    errors: tuple[float, ...]
    units: Tensor
    refits: Mapping[int, Tensor] = field(repr=False)
    spare: int


@dataclass(frozen=True)
class Spectrum:
    """Directions of a layer's outputs, those that hold most first.

    Attributes:
        directions: float32 [out, rank], orthonormal, of the outputs over their deviations.
        deviations: float32 [out].
        errors: float64 [1 + rank], what is lost, on the examples held out, with the first 0, 1, 2
            ... of them.
    """

    directions: Tensor = field(repr=False)
    deviations: Tensor = field(repr=False)
    errors: Tensor = field(repr=False)

    def within(self, error: float) -> int:
        """The smallest rank that loses no more than this."""
        fits = (self.errors <= error).nonzero()
        return int(fits[0]) if len(fits) else len(self.errors) - 1

    def project(self, W: Tensor, rank: int) -> Tensor:
        """W [out, in] with so many directions left."""
        U, s = self.directions[:, :rank], self.deviations[:, None]
        return s * (U @ (U.T @ (W / s)))


@dataclass(frozen=True)
class Dead:
    """Connections and channels that do nothing.

    Attributes:
        connections: bool [out, in], those whose contribution is below the share.
        inputs: bool [units], channels of which all contributions are.
    """

    connections: Tensor = field(repr=False)
    inputs: Tensor = field(repr=False)


def squares(W: Tensor, H: Tensor) -> Tensor:
    """The mean square of each output, the diagonal of W H W^T: float64 [out].

    Args:
        W: float [out, in].
        H: float [in, in], or [in], the diagonal of one.
    """
    WH = W * H if H.dim() == 1 else W @ H
    return (WH * W).sum(1, dtype=torch.float64).clamp(min=0)


@dataclass(frozen=True)
class Outputs:
    """How large the outputs of a layer are, and how much they vary; both float64 [out]."""

    squares: Tensor
    variances: Tensor

    @classmethod
    def of(cls, W: Tensor, H: Tensor, mean: Tensor) -> Outputs:
        """Of y = W x.

        Args:
            W: float [out, in].
            H: float [in, in], or [in], the diagonal of one.
            mean: float [in], of x.
        """
        whole = squares(W, H)
        varies = whole - (W @ mean).to(torch.float64).square()
        # what rounding leaves of an output that is always the same
        return cls(whole, torch.where(varies > 1e-6 * whole, varies, 0.0))

    @property
    def deviations(self) -> Tensor:
        """float64 [out]; of outputs that do not vary the mean of those that do, or 1."""
        varies = self.variances > 0
        mean = self.variances[varies].mean() if bool(varies.any()) else torch.tensor(1.0)
        return torch.where(varies, self.variances, mean).sqrt()

    def lost(self, errors: Tensor) -> Tensor:
        """What errors come to: float64 [..., out] mean squares -> [...]."""
        share = errors.sum(-1) / self.squares.sum().clamp(min=_TINY)
        varies = self.variances > 0
        if not bool(varies.any()):
            return share
        each = (errors[..., varies] / self.variances[varies]).clamp(max=1)
        return torch.maximum(share, each.mean(-1))


def removal(
    W: Tensor,
    H: Tensor,
    held: Tensor,
    outputs: Outputs,
    under: int = 1,
    *,
    stops: Sequence[int] = (),
    error: float = 0.01,
    damping: float = 1e-4,
) -> Removal:
    """Take inputs away, those that cost least first, and refit what stays.

    Each step takes the inputs that cost least by the block form of the Optimal Brain Surgeon
    (Kurtic et al. 2023, section 3) and hardly depend on one another; there are about 64 steps.
    It goes on until more than `error` is lost and all stops have been passed.

    Args:
        W: float32 [out, in].
        H: float32 [in, in], to fit with.
        held: float32 [in, in], to measure with.
        outputs: of W.
        under: columns of an input, next to one another.
        stops: numbers of inputs for which the refitted W is kept; below the number of inputs.
        error: what may be lost.
        damping: added to the diagonal of H, as a share of its mean.

    Raises:
        ValueError: H holds NaN or infinity, or is far from a second moment.
    """
    count, scale = W.shape[1] // under, outputs.deviations[:, None]
    left = _Left(W / scale, H, under, damping)
    each = max(1, -(-count // _STEPS))
    gone: list[int] = []
    errors: list[float] = []
    refits: dict[int, Tensor] = {}
    order: list[Tensor] = []
    total, spare, within = 0, 0, True
    while total < count - 1 and (within or total < max(stops, default=0)):
        stop = min((s for s in stops if s > total), default=count - 1)
        units = left.cheapest(min(each, stop - total, count - 1 - total))
        left.leave(units)
        total += len(units)
        order.append(units)
        V = (scale * left.W).to(W.dtype)
        if within:
            gone.append(total)
            errors.append(float(outputs.lost(squares(V - W, held))))
            within = errors[-1] <= error
            if within:
                if spare not in stops:
                    refits.pop(spare, None)
                spare, refits[total] = total, V
        if total in stops:
            refits[total] = V
    units = torch.cat(order) if order else torch.zeros(0, dtype=torch.int64)
    return Removal(tuple(gone), tuple(errors), units, refits, spare)


class _Left:
    """What is left of a matrix, float64: refitted, and the inverse of H."""

    def __init__(self, W: Tensor, H: Tensor, under: int, damping: float) -> None:
        self.inverse = _inverse(H.to(torch.float64), damping)
        self.W = W.to(torch.float64).clone()
        self._columns = torch.arange(len(H)).view(-1, under)
        self._gone = torch.zeros(len(self._columns), dtype=torch.bool)

    def cheapest(self, count: int) -> Tensor:
        """Units that cost least, up to so many, none of which depends much on another of them."""
        costs = self._costs()
        costs[self._gone] = torch.inf
        order = costs.argsort(stable=True)[: 2 * count]
        order = order[torch.isfinite(costs[order])]
        coupled = self._coupled(order)
        chosen: list[int] = []
        for i in range(len(order)):
            if len(chosen) == count:
                break
            if not chosen or float(coupled[i, chosen].max()) < _COUPLED:
                chosen.append(i)
        return order[chosen]

    def leave(self, units: Tensor) -> None:
        """What stays makes up for them."""
        columns = self._columns[units].flatten()
        rows = self.inverse[columns]
        solved = torch.linalg.solve(rows[:, columns], rows)
        self.W -= self.W[:, columns] @ solved
        self.inverse -= rows.T @ solved
        self.W[:, columns] = 0
        self.inverse[columns] = 0
        self.inverse[:, columns] = 0
        self.inverse[columns, columns] = 1
        self._gone[units] = True

    def _costs(self) -> Tensor:
        if self._columns.shape[1] == 1:
            return self.W.square().sum(0) / self.inverse.diagonal()
        blocks = self.inverse[self._columns[:, :, None], self._columns[:, None, :]]
        W = self.W[:, self._columns].transpose(0, 1)  # [units, out, under]
        squares = W.transpose(1, 2) @ W
        costs: Tensor = (torch.linalg.inv(blocks) * squares).sum((1, 2))
        return costs

    def _coupled(self, units: Tensor) -> Tensor:
        """How much the cost of each hangs on each other: correlations of the inverse."""
        columns = self._columns[units]
        scale = self.inverse.diagonal().clamp(min=_TINY).rsqrt()[columns.flatten()]
        block = self.inverse[columns.flatten()[:, None], columns.flatten()].abs()
        block = block * scale[:, None] * scale
        under = columns.shape[1]
        return block.view(len(units), under, len(units), under).amax((1, 3))


def _inverse(H: Tensor, damping: float) -> Tensor:
    """Of H with a ridge; a larger one where rounding has left H indefinite."""
    if not bool(torch.isfinite(H).all()):
        raise ValueError("the second moment of the inputs holds NaN or infinity")
    for more in (1, 10, 100):
        ridge = torch.eye(len(H), dtype=H.dtype) * ridge_of(H, more * damping)
        root, failed = torch.linalg.cholesky_ex(H + ridge)
        if not int(failed):
            return torch.cholesky_inverse(root)
    raise ValueError("expected a second moment of inputs, received an indefinite matrix")


def spectrum(W: Tensor, H: Tensor, held: Tensor, outputs: Outputs) -> Spectrum:
    """The directions that hold most of the outputs: the left singular vectors of W H^1/2.

    Args:
        W: float [out, in].
        H: float [in, in], to find them with, or [in], the diagonal of one.
        held: as H, to measure with.
        outputs: of W.
    """
    scale = outputs.deviations
    V = W / scale[:, None].to(W.dtype)
    wide = H.dim() == 2 and W.shape[0] > W.shape[1]
    U = _left_of_wide(V, H) if wide else _left(V, H)
    lost = outputs.lost(_errors(U, V, held) * scale.square())
    return Spectrum(U.to(W.dtype), scale.to(W.dtype), lost)


def _errors(U: Tensor, V: Tensor, H: Tensor) -> Tensor:
    """The mean square error of every output with the first 0, 1, 2 ... directions, [1 + r, out]."""
    exact, E = V.to(torch.float64), H.to(torch.float64)
    VH = exact * E if E.dim() == 1 else exact @ E
    parts = U.T @ VH  # [rank, in]
    crossed = U * (VH @ (U.T @ exact).T)  # [out, rank]: U_rk (C U)_rk with C = V H V^T
    M = parts @ (U.T @ exact).T  # [rank, rank], U^T C U
    before = U @ M.tril(-1).T
    step = -2 * crossed + U * (2 * before + U * M.diagonal())
    first = (VH * exact).sum(1)[:, None]
    return torch.cat((first, first + step.cumsum(1)), 1).clamp(min=0).T


def _left(W: Tensor, H: Tensor) -> Tensor:
    WH = W * H if H.dim() == 1 else W @ H
    vectors: Tensor = torch.linalg.eigh((WH @ W.T).to(torch.float64)).eigenvectors
    return vectors.flip(1)


def _left_of_wide(W: Tensor, H: Tensor) -> Tensor:
    """Of a matrix with more outputs than inputs, which then hold `in` directions at most."""
    values, vectors = torch.linalg.eigh(H.to(torch.float64))
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    M = W.to(torch.float64) @ root
    squared, right = torch.linalg.eigh(M.T @ M)
    found = squared.flip(0) > 1e-12 * squared[-1].clamp(min=_TINY)
    U: Tensor = torch.linalg.qr(M @ right.flip(1)[:, found]).Q
    return U


def saving_rank(out: int, width: int) -> int:
    """The largest rank of two factors that hold fewer numbers than [out, width]."""
    return (out * width - 1) // (out + width)


def dead(W: Tensor, H: Tensor, share: float, under: int = 1) -> Dead:
    """Connections whose contribution |w_ij| rms(x_j) is below a share of their output's rms.

    Args:
        W: float [out, in].
        H: float [in, in], or [in], the diagonal of one.
        share: of the output's root mean square; with outputs that are zero, all are dead.
        under: columns of an input, next to one another.
    """
    mean = (H if H.dim() == 1 else H.diagonal()).clamp(min=0)
    WH = W * H if H.dim() == 1 else W @ H
    output = (WH * W).sum(1).clamp(min=0).sqrt()
    connections = W.abs() * mean.sqrt() <= share * output[:, None]
    if H.dim() == 1 or under == 1:
        return Dead(connections, torch.unflatten(connections, 1, (-1, under)).all(2).all(0))
    # the contribution of all columns of an input together
    units = W.shape[1] // under
    blocks = H.view(units, under, units, under).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    V = W.view(len(W), units, under).transpose(0, 1)
    squares = ((V @ blocks) * V).sum(2)  # [units, out]
    return Dead(connections, (squares <= (share * output).square()).all(1))


def explained(C: Tensor, held: Tensor, r2: float) -> Tensor:
    """Which features a linear map of the others explains, on examples that it was not fitted to.

    A pivoted Cholesky factorization takes the feature that those taken before explain least, until
    they explain every other to R^2 = 1 - 1 / (C_jj (C^-1)_jj) >= r2. Of two that are alike it
    takes one.

    Args:
        C: float [n, n], their covariance, to fit with.
        held: float [n, n], to measure with.
        r2: share of a feature's variance.

    Returns:
        bool [n]; features that do not vary are not among them.
    """
    exact, other = C.to(torch.float64), held.to(torch.float64)
    scale = exact.diagonal().clamp(min=0).sqrt()
    varies = scale > 1e-6 * scale.max().clamp(min=_TINY)
    live = varies.nonzero()[:, 0]
    found = torch.zeros(len(C), dtype=torch.bool)
    if len(live) < 2:
        return found
    R = exact[live[:, None], live] / (scale[live, None] * scale[live])
    taken = live[_pivots(R, 1 - r2)]
    rest = live[~torch.isin(live, taken)]
    if not len(rest):
        return found
    own = exact[taken[:, None], taken]
    own = own + torch.eye(len(own), dtype=own.dtype) * ridge_of(own, 1e-6)
    B = torch.linalg.solve(own, exact[taken[:, None], rest])  # [taken, rest]
    seen = other[taken[:, None], taken]
    crossed = (other[taken[:, None], rest] * B).sum(0)
    lost = other.diagonal()[rest] - 2 * crossed + ((seen @ B) * B).sum(0)
    found[rest] = lost <= (1 - r2) * other.diagonal()[rest]
    return found


def _pivots(R: Tensor, rest: float) -> Tensor:
    """Taken one after the other until no diagonal element that is left exceeds `rest`."""
    left = R.diagonal().clone()
    rows = R.new_zeros(len(R), len(R))
    taken: list[int] = []
    while len(taken) < len(R):
        best = int(left.argmax())
        if float(left[best]) <= rest:
            break
        n = len(taken)
        row = (R[best] - rows[:n, best] @ rows[:n]) / left[best].sqrt()
        rows[n] = row
        left = left - row.square()
        left[best] = -torch.inf
        taken.append(best)
    return torch.tensor(taken, dtype=torch.int64)


def rounded(W: Tensor, bits: int, group: int | None = None) -> Tensor:
    """W on symmetric grids of 2^bits - 1 levels, one for each row, or each `group` of a row.

    Args:
        W: float [out, in]; the last group of a row may be shorter.
        bits: 2 or more.
        group: neighbors along `in`.
    """
    width = W.shape[1]
    size = min(group or width, width)
    padded = torch.unflatten(torch.nn.functional.pad(W, (0, -width % size)), 1, (-1, size))
    top = 2 ** (bits - 1) - 1
    step = padded.abs().amax(2, keepdim=True).clamp(min=_TINY) / top
    levels: Tensor = (padded / step).round() * step
    return levels.flatten(1)[:, :width]
