"""The heaviest work of a walk, done once before hours are spent on the rest."""

from __future__ import annotations

from math import prod

import torch

from sprue.models import Group, Source, Stream
from sprue.plan.blame import blamed, check_finite
from sprue.plan.moments import Moment
from sprue.plan.room import tidy
from sprue.weights.choice import Choice
from sprue.weights.decompose import decompose

_STATE_BITS = 9  # a quick code takes the same memory, and an eighth of the time


def rehearse(stream: Stream, seed: int, trellis: bool) -> None:
    """Load the heaviest block, run it on a window, and pack its largest matrix.

    Args:
        stream: the model, on one window.
        seed: of the sketch.
        trellis: whether matrices will be coded on the trellis; else in integers.

    Raises:
        InputError: weights or activations that cannot be worked with; names the matrix.
    """
    i = max(range(stream.blocks), key=lambda i: _weights(stream.source, i))
    group, local = _largest(stream.source, i)
    moment = Moment()
    stream.observe(stream.load(i), i, stream.embed(), {group.linears[0]: moment})
    H, name = moment.mean(), f"{stream.source.family.block(i)}.{local}"
    check_finite(name, H.diagonal())
    H.diagonal().add_(float(H.diagonal().mean()) + 1e-6)  # a window spans few directions
    choice = Choice("trellis", 3.0, state_bits=_STATE_BITS) if trellis else Choice("int", 4)
    tidy()
    with blamed(name):
        decompose(stream.source.weight(name), H, choice, seed, threads=torch.get_num_threads())
    tidy()


def _weights(source: Source, i: int) -> int:
    prefix = source.family.block(i)
    locals_ = source.family.linears(source.config)
    return sum(prod(source.shape(f"{prefix}.{local}.weight")) for local in locals_)


def _largest(source: Source, i: int) -> tuple[Group, str]:
    """The group and the local name of the matrix that takes most: widest input, then most rows."""
    prefix = source.family.block(i)
    found = [(group, n) for group in source.family.groups(source.config) for n in group.linears]
    return max(found, key=lambda pair: _shape(source, f"{prefix}.{pair[1]}"))


def _shape(source: Source, name: str) -> tuple[int, int]:
    a, b = source.shape(f"{name}.weight")
    return (a, b) if source.family.transposed else (b, a)
