"""Writes the golden files again: python tests/weights/golden/make.py

`table.json` holds bits and error of every kind of choice on a seeded matrix: it may change with the
solver, and the change is then seen in review. `packed.safetensors` and `packed.json` were stored by
a released format: they must never change, only grow (`--packed` writes them).
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sprue.weights import packed, threshold
from sprue.weights.choice import Choice
from sprue.weights.decompose import decompose
from sprue.weights.grids import columns

HERE = Path(__file__).resolve().parent

CHOICES = {
    "rtn 3": Choice("int", 3, feedback=False),
    "rtn 4, whole rows, zeros": Choice("int", 4, group_size=None, symmetric=False, feedback=False),
    "gptq 2": Choice("int", 2, group_size=32),
    "gptq 3": Choice("int", 3),
    "gptq 4, zeros": Choice("int", 4, symmetric=False),
    "gptq 2 + rank 4": Choice("int", 2, rank=4, factor_bits=8),
    "svd": Choice("none", rank=16),
    "caldera 2.5": Choice("trellis", 2.5, rotate="both", rank=4, factor_bits=4),
    "trellis 1.5": Choice("trellis", 1.5),
    "trellis 2": Choice("trellis", 2.0),
    "trellis 3": Choice("trellis", 3.0),
    "trellis 3, no feedback": Choice("trellis", 3.0, feedback=False),
    "best 1.5": Choice("trellis", 1.5, rank=None, factor_bits=None),
    "best 2.5": Choice("trellis", 2.5, rank=None, factor_bits=None),
    "best 4": Choice("trellis", 4.0, rank=None, factor_bits=None),
    "raw": Choice("raw"),
    "wanda": Choice("raw", feedback=False, pattern="unstructured", sparsity=0.5),
    "sparsegpt": Choice("raw", pattern="unstructured", sparsity=0.5, zeros="sweep"),
    "sparsegpt 2:4": Choice("raw", pattern="2:4", zeros="sweep"),
    "jointly": Choice("raw", pattern="unstructured", sparsity=0.5),
    "jointly 2:4": Choice("raw", pattern="2:4"),
    "jointly 2:4, gptq 4": Choice("int", 4, pattern="2:4"),
    "sweep 2:4, gptq 4": Choice("int", 4, pattern="2:4", zeros="sweep"),
    "slim 3, 50%": Choice("trellis", 3.0, rank=4, pattern="unstructured", sparsity=0.5),
    "slim 3, 2:4": Choice("trellis", 3.0, rank=None, factor_bits=None, pattern="2:4"),
}


def problem(out: int = 96, width: int = 160) -> tuple[Tensor, Tensor, Tensor]:
    """(W, H, importance): a normal matrix with four strong components, correlated inputs."""
    generator = torch.Generator().manual_seed(2026)
    W = torch.randn(out, width, generator=generator)
    strong = torch.randn(out, 4, generator=generator) @ torch.randn(4, width, generator=generator)
    Q = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0]
    H = (Q / torch.arange(1, width + 1)) @ Q.T
    importance = torch.rand(out, generator=generator) + 0.1
    return W + 0.7 * strong, H.float(), importance


def table() -> dict[str, dict[str, float]]:
    """Bits a weight and relative error by choice."""
    W, H, importance = problem()
    found = {n: decompose(W, H, c, 7, importance) for n, c in CHOICES.items()}
    return {n: {"bits": p.bits_per_weight, "error": p.error} for n, p in found.items()}


def stored() -> dict[str, packed.Packed]:
    """One small matrix of every kind that is stored."""
    W, H, importance = problem(48, 40)
    tall = torch.randn(2060, 4, generator=torch.Generator().manual_seed(1))
    few = {"factor_bits": 4, "state_bits": 10}
    choices = {
        "int": Choice("int", 3),
        "int_zeros_rank": Choice("int", 4, group_size=16, symmetric=False, rank=2),
        "trellis": Choice("trellis", 3),
        "trellis_rotated": Choice("trellis", 3, rotate="both", rank=2, **few),
        "factors": Choice("none", rank=3, factor_bits=16),
        "raw": Choice("raw"),
    }
    zeros = {
        "masked": Choice("raw", pattern="5:10"),
        "masked_int": Choice("int", 4, group_size=8, pattern="4x4", sparsity=0.5, rank=2),
        "trellis_masked": Choice("trellis", 3, pattern="2:4", state_bits=10),
    }
    cases = {n: decompose(W, H, c, 7, importance) for n, c in choices.items()}
    cases |= {n: decompose(W[:10], H, c, 7) for n, c in zeros.items()}
    cases["columns"] = _columns(W[:10])
    segments = decompose(tall, torch.eye(4), Choice("trellis", 2.5), 7)
    return {**cases, "trellis_segments": segments}


def _columns(W: Tensor) -> packed.Packed:
    """A matrix by columns, with a threshold."""
    meta, tensors = columns.pack(W.to(torch.bfloat16))
    meta = threshold.attach(meta, 0.25, 0.5)
    return packed.Packed((W.shape[0], W.shape[1]), meta, tensors, 0.0)


def digest(values: Tensor) -> str:
    """sha256 of float32 bytes, row by row."""
    return hashlib.sha256(values.to(torch.float32).contiguous().numpy().tobytes()).hexdigest()


def _write_packed() -> None:
    cases = stored()
    tensors = {f"{n}.{key}": t for n, p in cases.items() for key, t in p.tensors.items()}
    save_file(tensors, HERE / "packed.safetensors")
    told: dict[str, Any] = {}
    for name, p in cases.items():
        values = packed.dense(p.meta, p.tensors)
        row = values[1, :4].tolist()
        told[name] = {"layout": packed.layout(p), "sha256": digest(values), "row": row}
    (HERE / "packed.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    (HERE / "table.json").write_text(json.dumps(table(), indent=1) + "\n")
    if "--packed" in sys.argv:
        _write_packed()
