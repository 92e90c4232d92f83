"""The low-rank part that may stand beside a grid: L @ R with L [out, rank] and R [rank, in].

Both factors are stored the same way: on a symmetric integer grid with one float16 scale per rank
component (a column of L, a row of R) or per group of one, or as plain float16 (bits=16). Codes run
along a component, so L is stored transposed.

    L [out, rank] -> l_codes, l_scale [rank, groups]      R [rank, in] -> r_codes, r_scale
    at 16 bits       l_weight [rank, out]                                 r_weight [rank, in]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sprue.weights.grids import Meta, Tensors, integer

BITS = (2, 3, 4, 5, 6, 7, 8, 16)


def pack_factor(
    F: Tensor, bits: int, group_size: int | None = None, importance: Tensor | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Stores a factor F [n, rank], one component per column.

    Args:
        F: floating [n, rank]; L as it is, R transposed.
        bits: 2 to 8 (the solver takes 4 and 8), or 16 for plain float16.
        group_size: codes of a component that share a scale; None: all n.
        importance: non-negative [n], weighs the squared error that the scales minimize.

    Returns:
        (meta, tensors) for `unpack_factor`.

    Raises:
        ValueError: other bits, NaN or infinity, or values that float16 cannot hold.
    """
    if bits not in BITS:
        raise ValueError(f"a factor is stored at 2 to 8 or at 16 bits, received {bits}")
    rank = F.shape[1]
    meta: dict[str, Any] = {"rank": rank, "bits": bits, "group_size": group_size}
    if bits == 16:
        weight = F.T.to(torch.float16).contiguous()
        if not torch.isfinite(weight).all():
            raise ValueError("a factor holds NaN, infinity or values that float16 cannot hold")
        return meta, {"weight": weight}
    _, tensors = integer.round_to_nearest(F.T, bits, group_size, True, importance)
    return meta, tensors


def unpack_factor(meta: Meta, tensors: Tensors, n: int) -> Tensor:
    """The factor F, float32 [n, rank]."""
    return _components(meta, tensors, n).T


def attach(
    meta: Mapping[str, Any],
    tensors: Tensors,
    L: Tensor,
    R: Tensor,
    bits: int,
    group_size: int | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Adds L @ R to a stored grid: (meta, tensors) with both. Rank 0 adds nothing.

    For no grid at all, `meta` is {"grid": "none", "shape": [out, in]} and `tensors` empty.
    """
    out, width = meta["shape"]
    rank = L.shape[1]
    if L.shape != (out, rank) or R.shape != (rank, width):
        raise ValueError(
            f"expected factors [{out}, rank] and [rank, {width}], "
            f"received {list(L.shape)} and {list(R.shape)}"
        )
    if rank == 0:
        return dict(meta), dict(tensors)
    low_rank, left = pack_factor(L, bits, group_size)
    _, right = pack_factor(R.T, bits, group_size)
    named = {
        f"{side}_{name}": t
        for side, part in (("l", left), ("r", right))
        for name, t in part.items()
    }
    return {**meta, "low_rank": low_rank}, {**tensors, **named}


def split(meta: Meta, tensors: Tensors) -> tuple[Tensor, Tensor]:
    """(L [out, rank], R [rank, in]) as stored beside a grid, float32."""
    out, width = meta["shape"]
    low_rank = meta["low_rank"]
    left = _components(low_rank, _side(tensors, "l_"), out)
    return left.T, _components(low_rank, _side(tensors, "r_"), width)


def stored_bits(shape: tuple[int, int], rank: int, bits: int, group_size: int | None = None) -> int:
    """Everything that `attach` stores for a matrix of this shape, in bits."""
    if bits == 16:
        return 16 * rank * sum(shape)
    return sum(integer.stored_bits((rank, n), bits, group_size, True) for n in shape) if rank else 0


def _side(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _components(meta: Meta, tensors: Tensors, n: int) -> Tensor:
    """F.T, float32 [rank, n]."""
    if meta["bits"] == 16:
        return tensors["weight"].to(torch.float32)
    grid = {
        "shape": [meta["rank"], n],
        "bits": meta["bits"],
        "group_size": meta["group_size"],
        "symmetric": True,
    }
    return integer.dense(grid, tensors)
