"""A packed matrix: what is stored, and how to multiply with it.

The grid's part may be stored in rotated coordinates (`rotate`), which is undone here.

A grid is one module with three functions (`dense`, `matmul`, `rows`; see `sprue.weights.grids`),
listed in `GRIDS`. A low-rank part may stand beside any grid: W^ = grid + L @ R (`factors`), and
alone beside the grid "none". Any of them may carry a threshold (`threshold`), below which inputs
count as zero.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from sprue.weights import factors, threshold
from sprue.weights.grids import Grid, Meta, Tensors
from sprue.weights.rotate import restore, rotate, unrotate

__all__ = [
    "GRIDS",
    "Grid",
    "Meta",
    "Packed",
    "Tensors",
    "dense",
    "empty_tensors",
    "flops",
    "layout",
    "matmul",
    "rows",
]

# Imported when first met: a model that holds no trellis does not pay for its tables.
GRIDS: Mapping[str, str | None] = {
    "raw": "sprue.weights.grids.raw",
    "int": "sprue.weights.grids.integer",
    "masked": "sprue.weights.grids.masked",
    "columns": "sprue.weights.grids.columns",
    "trellis": "sprue.weights.grids.trellis",
    "none": None,
}


@dataclass(frozen=True)
class Packed:
    """A matrix as it is stored.

    Attributes:
        shape: (out, in) of the matrix.
        meta: what decoding needs beside the tensors; JSON-able. Holds "grid" and "shape".
        tensors: exactly what is stored; names hold no dot.
        error: tr(D H D^T) / tr(W H W^T) with D = W - W^, as it was made (no unit).
    """

    shape: tuple[int, int]
    meta: dict[str, Any]
    tensors: dict[str, Tensor]
    error: float

    @property
    def bits(self) -> int:
        """Everything stored, in bits."""
        return 8 * sum(t.numel() * t.element_size() for t in self.tensors.values())

    @property
    def bits_per_weight(self) -> float:
        """Stored bits over the number of weights of the matrix."""
        return self.bits / (self.shape[0] * self.shape[1])


def dense(meta: Meta, tensors: Tensors) -> Tensor:
    """W^, float32 [out, in].

    Args:
        meta: of a `Packed`, or its `layout`.
        tensors: as stored.

    Raises:
        ValueError: an unknown grid.
    """
    grid = _grid(meta)
    values = torch.zeros(meta["shape"]) if grid is None else _grid_dense(grid, meta, tensors)
    if "low_rank" not in meta:
        return values
    L, R = factors.split(meta, tensors)
    return values.to(L.device) + L @ R


def matmul(meta: Meta, tensors: Tensors, x: Tensor) -> Tensor:
    """x @ W^.T for x [..., in], without keeping a dense copy of W^; s(x) @ W^.T with a threshold.

    On a CPU it computes in float32 also for 16-bit x (few processors multiply 16-bit floats faster,
    and most much slower), elsewhere in x's dtype.

    Returns:
        [..., out] in x's dtype.
    """
    work = torch.promote_types(x.dtype, torch.float32) if x.device.type == "cpu" else x.dtype
    grid, inner = _grid(meta), x.to(work)
    if "threshold" in meta:
        inner = threshold.applied(inner, meta["threshold"]["value"])
    parts = [] if grid is None else [_grid_matmul(grid, meta, tensors, inner)]
    if "low_rank" in meta:
        L, R = factors.split(meta, tensors)
        parts.append((inner @ R.to(work).T) @ L.to(work).T)
    if not parts:
        return x.new_zeros(*x.shape[:-1], meta["shape"][0])
    return sum(parts[1:], parts[0]).to(x.dtype)


def rows(meta: Meta, tensors: Tensors, ids: Tensor) -> Tensor:
    """The rows W^[ids] for ids (int64, any shape), float32 [*ids.shape, in].

    Only these rows are decoded.

    Raises:
        IndexError: an id below 0 or beyond the last row.
    """
    grid = _grid(meta)
    parts = [] if grid is None else [_grid_rows(grid, meta, tensors, ids)]
    if "low_rank" in meta:
        L, R = factors.split(meta, tensors)
        parts.append(nn.functional.embedding(ids, L) @ R)
    if not parts:
        return torch.zeros(*ids.shape, meta["shape"][1], device=ids.device)
    return sum(parts[1:], parts[0])


def layout(packed: Packed) -> dict[str, Any]:
    """All that is needed to make empty buffers and to decode them when filled; JSON-able."""
    return {
        **packed.meta,
        "shape": list(packed.shape),
        "tensors": {
            name: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")}
            for name, t in packed.tensors.items()
        },
    }


def flops(meta: Meta) -> int:
    """Floating-point operations of one product with a vector: two for each weight that is not a
    stored zero, and the low-rank part's; with a threshold, of the inputs that it left on average.
    """
    out: int = meta["shape"][0]
    width: int = meta["shape"][1]
    kept: int = meta["mask"]["kept"] if "mask" in meta else out * width
    rank: int = meta["low_rank"]["rank"] if "low_rank" in meta else 0
    inputs: float = 1 - meta["threshold"]["zeros"] if "threshold" in meta else 1
    whole = 0 if meta["grid"] == "none" else kept
    return round(2 * (inputs * (whole + rank * width) + rank * out))


def empty_tensors(layout: Mapping[str, Any]) -> dict[str, Tensor]:
    """Uninitialized tensors of the declared shapes and dtypes, on the current default device.

    Raises:
        ValueError: an unknown grid or dtype.
    """
    _grid(layout)
    return {
        name: torch.empty(spec["shape"], dtype=_dtype(name, spec["dtype"]))
        for name, spec in layout["tensors"].items()
    }


def _grid_dense(grid: Grid, meta: Meta, tensors: Tensors) -> Tensor:
    return restore(grid.dense(meta, tensors), meta.get("rotate", {}))


def _grid_matmul(grid: Grid, meta: Meta, tensors: Tensors, x: Tensor) -> Tensor:
    turn = meta.get("rotate", {})
    y = grid.matmul(meta, tensors, rotate(x, turn["in"]) if "in" in turn else x)
    return unrotate(y, turn["out"]) if "out" in turn else y


def _grid_rows(grid: Grid, meta: Meta, tensors: Tensors, ids: Tensor) -> Tensor:
    turn = meta.get("rotate", {})
    if "out" in turn:  # every row is a mixture of all
        return nn.functional.embedding(ids, _grid_dense(grid, meta, tensors))
    return restore(grid.rows(meta, tensors, ids), turn)


def _grid(meta: Meta) -> Grid | None:
    name = meta["grid"]
    if name not in GRIDS:
        raise ValueError(f"unknown grid {name!r}; known are {', '.join(sorted(GRIDS))}")
    module = GRIDS[name]
    return None if module is None else _module(module)


@cache
def _module(name: str) -> Grid:
    # A module is its own implementation of the protocol.
    return cast(Grid, importlib.import_module(name))


def _dtype(name: str, text: str) -> torch.dtype:
    dtype = getattr(torch, text, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"tensor {name!r} declares the dtype {text!r}, which torch does not have")
    return dtype
