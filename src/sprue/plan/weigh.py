"""What weights alone tell of a network, where there are no examples to run it on.

Inputs are taken to be independent and of one size, so that nothing can make up for what leaves: an
input costs the squares of its weights. That overstates what most layers need, and says nothing of
what a network's answers would lose.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sprue.errors import InputError
from sprue.models import nets
from sprue.plan.look import WIDEST, Asked
from sprue.structure import gauges, matrices, redundancy
from sprue.structure.findings import BINS, Findings, LayerFindings
from sprue.structure.gauges import Profile


def weigh(net: nets.Net, asked: Asked | None = None) -> Findings:
    """Look at the weights of every layer that runs: Linear, Conv1d, Conv2d, Embedding.

    Args:
        net: the network; its examples are run once, to see which layers run.
        asked: what counts as little.

    Returns:
        Findings of 0 examples, without contributions and options.

    Raises:
        InputError: no layer that is known.
    """
    asked = asked or Asked()
    module = net.module.eval()
    profiles = gauges.profile(module, net.example)
    every = {n: m for n, m in module.named_modules() if matrices.is_layer(m)}
    if not profiles:
        raise InputError(
            f"no layer of this network is known (Linear, Conv1d, Conv2d, Embedding run as modules "
            f"in what was opened from {net.source})"
        )
    sharing: dict[int, list[str]] = {}
    for name in profiles:
        sharing.setdefault(id(every[name].weight), []).append(name)
    idle = [(n, m) for n, m in every.items() if n not in profiles and id(m.weight) not in sharing]
    return Findings(
        layers=tuple(_weighed(names, every, profiles, asked) for names in sharing.values()),
        idle=tuple((n, sum(p.numel() for p in m.parameters())) for n, m in idle),
        parameters=net.parameters,
        error=asked.error,
        share=asked.share,
        r2=asked.r2,
        examples=(0, 0),
        draws=0,
        seed=0,
    )


def _weighed(
    names: Sequence[str],
    every: dict[str, nn.Module],
    profiles: dict[str, Profile],
    asked: Asked,
) -> LayerFindings:
    ordered = sorted(names, key=lambda n: matrices.is_embedding(every[n]))
    name, module = ordered[0], every[ordered[0]]
    W, under = matrices.matrix(module).contiguous(), matrices.under(module)
    looked_up = matrices.is_embedding(module)
    positions = sum(
        profiles[n].positions for n in names if matrices.is_embedding(every[n]) is looked_up
    )
    grouped, groups = matrices.groups(module) > 1, matrices.groups(module)
    even = torch.ones(W.shape[1])
    dead = None if looked_up else redundancy.dead(W, even, asked.share, under)
    wide = W.shape[1] > WIDEST and not looked_up
    return LayerFindings(
        name=name,
        kind=type(module).__name__,
        out=W.shape[0],
        width=W.shape[1],
        parameters=W.numel(),
        macs=0.0 if looked_up else positions * W.numel(),
        positions=0,
        inputs=W.shape[1] // under * groups,
        spare_inputs=None if looked_up or grouped else _spare(W, under, asked.error),
        rank=None if grouped or wide else _rank(W, asked.error),
        dead_connections=None if dead is None else int(dead.connections.sum()),
        dead_inputs=None if dead is None or grouped else _unread(W, under),
        dead_outputs=int((W.abs().amax(1) == 0).sum()),
        repeated_outputs=_repeated(W, asked.r2),
        repeated_inputs=None,
        contributions=(0,) * BINS,
        options=(),
    )


def _rank(W: Tensor, error: float) -> int:
    even = torch.ones(min(W.shape))
    thin = W if W.shape[0] <= W.shape[1] else W.T  # the rank of both is the same
    wide = torch.ones(thin.shape[1]) if len(even) != thin.shape[1] else even
    outputs = redundancy.Outputs.of(thin, wide, torch.zeros_like(wide))
    return redundancy.spectrum(thin, wide, wide, outputs).within(error)


def _spare(W: Tensor, under: int, error: float) -> int:
    """Inputs whose weights' squares, the smallest first, make up no more than the error."""
    squares = torch.unflatten(W.double().square().sum(0), 0, (-1, under)).sum(1)
    total = float(squares.sum())
    gone = int((squares.sort().values.cumsum(0) <= error * total).sum())
    return min(gone, len(squares) - 1)


def _unread(W: Tensor, under: int) -> int:
    return int((torch.unflatten(W.abs().amax(0), 0, (-1, under)).amax(1) == 0).sum())


def _repeated(W: Tensor, r2: float) -> int | None:
    """Rows that other rows explain; None where they are as many as columns, and all could be."""
    if len(W) >= W.shape[1] or len(W) > WIDEST:
        return None
    C = W.double() @ W.double().T
    return int(redundancy.explained(C, C, r2).sum())
