"""Randomized Hadamard rotation of any width.

Incoherence processing (QuIP#, Tseng et al. 2024, section 3): signs, then an orthogonal transform
that mixes every coordinate with every other. A width n = 2^p m with m odd takes the Hadamard
transform of length 2^p and the orthonormal cosine transform of length m, for O(n (p + m)) work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor


def rotate(x: Tensor, seed: int) -> Tensor:
    """The last dimension of x [..., n], rotated; floating, computed in x's dtype."""
    n = x.shape[-1]
    power, odd = _parts(n)
    y = (x * signs(n, seed).to(x)).reshape(-1, odd, power)
    y = _hadamard(y)
    if odd > 1:
        y = torch.einsum("ab,kbp->kap", _cosine(odd).to(x), y)
    return y.reshape(x.shape)


def unrotate(x: Tensor, seed: int) -> Tensor:
    """The inverse of `rotate`."""
    n = x.shape[-1]
    power, odd = _parts(n)
    y = x.reshape(-1, odd, power)
    if odd > 1:
        y = torch.einsum("ba,kbp->kap", _cosine(odd).to(x), y)
    return _hadamard(y).reshape(x.shape) * signs(n, seed).to(x)


def restore(W: Tensor, turn: Mapping[str, int]) -> Tensor:
    """A matrix [out, in] whose columns ("in") and rows ("out") were rotated under these seeds."""
    if "out" in turn:
        W = unrotate(W.T.contiguous(), turn["out"]).T
    return unrotate(W.contiguous(), turn["in"]) if "in" in turn else W


def signs(n: int, seed: int) -> Tensor:
    """+1 or -1 for each coordinate, float32 [n]; the global generator is not touched."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (n,), generator=generator) * 2.0 - 1.0


def _parts(n: int) -> tuple[int, int]:
    power = n & -n
    return power, n // power


def _hadamard(y: Tensor) -> Tensor:
    """Fast Walsh-Hadamard transform of the last dimension, orthonormal."""
    n = y.shape[-1]
    width = 1
    while width < n:
        pair = y.reshape(*y.shape[:-1], n // (2 * width), 2, width)
        a, b = pair[..., 0, :], pair[..., 1, :]
        y = torch.stack((a + b, a - b), dim=-2).reshape(y.shape)
        width *= 2
    return y / math.sqrt(n)


@cache
def _cosine(n: int) -> Tensor:
    """The orthonormal DCT-II, float64 [n, n]."""
    k = torch.arange(n, dtype=torch.float64)
    C = torch.cos(math.pi / n * (k[None] + 0.5) * k[:, None]) * math.sqrt(2 / n)
    C[0] /= math.sqrt(2)
    return C
