"""What one layer could do without: figures from its weights and from what it reads.

Moments come in pairs: of the examples that are fitted to, and of those held out to measure with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sprue.structure import matrices, options, redundancy
from sprue.structure.findings import BINS, DECADES
from sprue.structure.gauges import Moments
from sprue.structure.options import Change
from sprue.structure.redundancy import Outputs

WIDEST = 8192  # columns of a layer that is taken apart, and features that are compared

Pair = tuple[Moments, Moments]


@dataclass(frozen=True)
class Asked:
    """What counts as little: `inspect` explains the three.

    Attributes:
        error: share of the mean square of a layer's output.
        share: of an output's root mean square.
        r2: share of a feature's variance.
    """

    error: float = 0.01
    share: float = 1e-3
    r2: float = 0.99


@dataclass(frozen=True)
class Look:
    """What was found; `findings.LayerFindings` explains the figures.

    Attributes:
        changes: what techniques do to the layer.
    """

    inputs: int
    positions: int
    changes: tuple[Change, ...]
    spare_inputs: int | None = None
    rank: int | None = None
    dead_connections: int | None = None
    dead_inputs: int | None = None
    repeated_outputs: int | None = None
    repeated_inputs: int | None = None
    contributions: tuple[int, ...] = (0,) * BINS


def look(module: nn.Module, pair: Pair, asked: Asked) -> Look:
    """Look at a layer.

    Args:
        module: the layer.
        pair: of what it reads.
        asked: what counts as little.
    """
    W = matrices.matrix(module).contiguous()
    if matrices.is_embedding(module):
        return _looked_up(W, pair, asked)
    if matrices.groups(module) > 1 or W.shape[1] > WIDEST:
        return _whole(W, matrices.under(module), pair, asked)
    return _apart(W, matrices.under(module), pair, asked)


def _apart(W: Tensor, under: int, pair: Pair, asked: Asked) -> Look:
    """A matrix whose inputs and directions can leave."""
    inputs, (H, held) = W.shape[1] // under, (m.H[0] for m in pair)
    outputs = Outputs.of(W, held, pair[1].mean[0])
    stops = sorted(set(options.parts(inputs))) if inputs > 1 else []
    removal = redundancy.removal(W, H, held, outputs, under, stops=stops, error=asked.error)
    spectrum = redundancy.spectrum(W, H, held, outputs)
    rank = spectrum.within(asked.error)
    whole = _both(pair)[0]
    dead = redundancy.dead(W, whole, asked.share, under)
    covariances = [m.H[0] - torch.outer(m.mean[0], m.mean[0]) for m in pair]
    middle = torch.arange(inputs) * under + under // 2  # of each kernel
    return Look(
        inputs=inputs,
        positions=_positions(pair),
        changes=(
            *options.grids(W),
            *([options.two_of_four(W, H.diagonal(), under)] if inputs % 4 == 0 else []),
            *options.half_rank(W, spectrum),
            *options.fewer_inputs(W, removal, inputs),
            *options.without_dead(W, dead.connections),
            *options.spare(W, spectrum, rank, removal, inputs),
        ),
        spare_inputs=removal.spare,
        rank=rank,
        dead_connections=int(dead.connections.sum()),
        dead_inputs=int(dead.inputs.sum()),
        repeated_outputs=None
        if len(W) > WIDEST
        else _repeated([W @ C @ W.T for C in covariances], pair, asked),
        repeated_inputs=_repeated([C[middle[:, None], middle] for C in covariances], pair, asked),
        contributions=_contributions(W, whole),
    )


def _whole(W: Tensor, under: int, pair: Pair, asked: Asked) -> Look:
    """A layer that is not taken apart: with groups, or very wide."""
    H = _both(pair)
    rows = torch.unflatten(W, 0, (len(H), -1))
    dead = [redundancy.dead(w, h, asked.share, under) for w, h in zip(rows, H, strict=True)]
    connections = torch.cat([d.connections for d in dead])
    counts = [_contributions(w, h) for w, h in zip(rows, H, strict=True)]
    outputs = [_covariance_of_outputs(rows, m) for m in pair if m.outputs is not None]
    return Look(
        inputs=W.shape[1] // under * len(H),
        positions=_positions(pair),
        changes=(*options.grids(W), *options.without_dead(W, connections)),
        dead_connections=int(connections.sum()),
        dead_inputs=sum(int(d.inputs.sum()) for d in dead),
        repeated_outputs=_repeated(outputs, pair, asked) if len(outputs) == 2 else None,
        contributions=tuple(sum(column) for column in zip(*counts, strict=True)),
    )


def _looked_up(W: Tensor, pair: Pair, asked: Asked) -> Look:
    """An embedding, W [width, ids]: grids lie along the rows that are stored."""
    shares = [_mixed(m) for m in pair]
    outputs = Outputs.of(W, shares[1], shares[1])
    spectrum = redundancy.spectrum(W, shares[0], shares[1], outputs)
    rank = spectrum.within(asked.error)
    stored = (replace(change, D=change.D.T) for change in options.grids(W.T.contiguous()))
    return Look(
        inputs=W.shape[1],
        positions=_positions(pair),
        changes=(
            *stored,
            *options.half_rank(W, spectrum),
            *options.spare(W, spectrum, rank, None, W.shape[1]),
        ),
        rank=rank,
    )


def _mixed(moments: Moments) -> Tensor:
    """Shares of the ids as if every second one were any: those that did not come may yet come."""
    return moments.H[0] / 2 + 1 / (2 * moments.H.shape[1])


def _positions(pair: Pair) -> int:
    return pair[0].positions + pair[1].positions


def _both(pair: Pair) -> Tensor:
    a, b = pair
    return (a.H * a.positions + b.H * b.positions) / _positions(pair)


def _covariance_of_outputs(rows: Tensor, moments: Moments) -> Tensor:
    assert moments.outputs is not None
    mean = (rows @ moments.mean[:, :, None]).flatten()
    return moments.outputs - torch.outer(mean, mean)


def _repeated(covariances: Sequence[Tensor], pair: Pair, asked: Asked) -> int | None:
    """Features that others explain; None where as many could be explained by chance."""
    fitted, held = covariances
    if min(m.positions for m in pair) <= len(fitted):
        return None
    return int(redundancy.explained(fitted, held, asked.r2).sum())


def _contributions(W: Tensor, H: Tensor) -> tuple[int, ...]:
    """Counts of connections by the logarithm of their contribution."""
    WH, mean = (W * H, H) if H.dim() == 1 else (W @ H, H.diagonal())
    output = (WH * W).sum(1).clamp(min=1e-30).sqrt()
    found = (W.abs() * mean.clamp(min=0).sqrt() / output[:, None]).clamp(min=1e-30).log10()
    low, high = DECADES
    return tuple(torch.histc(found.clamp(low, high), BINS, low, high).long().tolist())
