"""Zeros, few bits and low rank found together, against the same parts one after the other.

All linears of base6m at equal bytes, everything stored counted: what the parts in turn take with
integers is the budget that every other way is given. One matrix at a time, with the second moments
and the importances of the original model (no matrix sees what others lost), so that only the solver
inside a matrix differs. Two figures: tr(G D H D^T) / tr(G W H W^T), its mean over the matrices, and
the excess perplexity of the model with all of them replaced, on the text of `bench_quality.py`,
paired window by window with the slim choice.

In turn: SparseGPT or Wanda at 16 bits; then what stays on integers by GPTQ or on the trellis; then
a whitened SVD of what is left, of the same rank and bits as beside it. Parts alone: bits; bits and
rank; zeros and bits.

    python benchmarks/bench_slim.py [--keep]
"""

from __future__ import annotations

import argparse
import copy
import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import common  # isort: skip  # before torch, which then takes one thread
import numpy as np
import torch
from torch import Tensor

import bench_quality
import bench_sparsity
from sprue import models
from sprue.models import Stream, set_weight
from sprue.plan import design
from sprue.plan.moments import Moment
from sprue.plan.survey import survey
from sprue.proof import intervals, load, quality
from sprue.weights import coding, factors, lowrank, packed, patterns, rates, sweep
from sprue.weights.choice import Choice
from sprue.weights.decompose import decompose
from sprue.weights.factor import inverse_factor
from sprue.weights.grids import masked
from sprue.weights.problem import checked, energy_of, normalized, single

PATTERNS = ("2:4", "unstructured")
CODES = (2, 4)  # bits of the integers that set the budget
SHARE, RANK, FACTOR_BITS, GROUP, DAMPING, STATE_BITS = 0.5, 8, 4, 64, 0.001, 10
SURVEYED = 32  # windows


@dataclass(frozen=True)
class Matrix:
    """One linear, and what its error counts."""

    name: str
    W: Tensor
    H: Tensor
    importance: Tensor

    @property
    def seed(self) -> int:
        return zlib.crc32(self.name.encode())


Way = Callable[[Matrix], tuple[Tensor, int]]  # (what is decoded, bits)


def matrices() -> list[Matrix]:
    """All linears of the blocks of base6m."""
    source, ids = models.open(common.BASE), bench_sparsity.calibration_ids()
    some = ids[torch.linspace(0, len(ids) - 1, SURVEYED).long()]
    found = survey(Stream(source, some, 8, "cpu"), seed=0)
    stream, family = Stream(source, ids, 8, "cpu"), source.family
    groups, hidden, rows = family.groups(source.config), stream.embed(), []
    for i in range(stream.blocks):
        taps = {group.linears[0]: Moment() for group in groups}
        stream.run(stream.load(i), i, hidden, taps, out=hidden)
        for group in groups:
            H = taps[group.linears[0]].mean()
            for name in (f"{family.block(i)}.{local}" for local in group.linears):
                rows.append(Matrix(name, source.weight(name), H, found.importance[name]))
    return rows


def _pattern(text: str) -> dict[str, Any]:
    return {"pattern": text, "sparsity": 0.0 if ":" in text else SHARE}


def chosen(choice: Choice) -> Way:
    """One call of the solver."""

    def way(m: Matrix) -> tuple[Tensor, int]:
        p = decompose(m.W, m.H, choice, m.seed, m.importance)
        return packed.dense(p.meta, p.tensors), p.bits

    return way


def in_turn(text: str, mask_by: str, grid: str, budget: float, code: int, rank: int = RANK) -> Way:
    """Mask, then bits, then rank.

    Args:
        text: the pattern.
        mask_by: "sparsegpt" or "wanda".
        grid: "int" or "trellis".
        budget: bits a weight, factors included, of the trellis.
        code: bits of the integers.
        rank: of the factors; 0: none.
    """
    pattern, feedback = patterns.parse(text), mask_by == "sparsegpt"
    first = Choice(
        *("raw", 16), feedback=feedback, damping=DAMPING, zeros="sweep", **_pattern(text)
    )

    def way(m: Matrix) -> tuple[Tensor, int]:
        pruned = decompose(m.W, m.H, first, m.seed, m.importance)
        mask = patterns.unpack(pruned.meta["mask"], pruned.tensors["mask"], pruned.shape)
        V = packed.dense(pruned.meta, pruned.tensors)
        p = checked(m.W, m.H, m.importance, DAMPING)
        exact = inverse_factor(p.H, p.ridge)
        U = single(exact)
        if grid == "int":
            *coded, _ = sweep.on_integers(V, U, code, GROUP, True, p.H.diagonal(), mask)
            stored = masked.pack_codes(
                *((coded[0], coded[1], coded[2]), mask, pattern),
                bits=code,
                group_size=GROUP,
                symmetric=True,
            )
        else:
            left = budget - coding.factors_bits(p.W.shape, rank, FACTOR_BITS)
            choice = Choice(
                "trellis", budget, damping=DAMPING, state_bits=STATE_BITS, **_pattern(text)
            )
            costs = rates.spread(np.ones(len(U)), exact)
            stored = coding.trellis_part(replace(p, W=V, mask=mask), costs, choice, left, 1)
        if rank:
            error = p.W - packed.dense(*stored)
            L, R = lowrank.whitened(error, U, rank, m.seed, m.importance)
            stored = factors.attach(*stored, L, R, FACTOR_BITS)
        return packed.dense(*stored), sum(8 * t.nbytes for t in stored[1].values())

    return way


def ways(text: str, code: int, budget: float) -> dict[str, Way]:
    """Every way to fill the budget."""
    coded: dict[str, Any] = {"damping": DAMPING, "state_bits": STATE_BITS}
    low: dict[str, Any] = {"rank": RANK, "factor_bits": FACTOR_BITS}
    free: dict[str, Any] = {"rank": None, "factor_bits": None}
    zeros = _pattern(text)
    trellis = Choice("trellis", budget, **coded)
    return {
        "slim": chosen(replace(trellis, **zeros, **free)),
        f"slim, rank {RANK}": chosen(replace(trellis, **zeros, **low)),
        "SparseGPT, trellis, SVD": in_turn(text, "sparsegpt", "trellis", budget, code),
        "SparseGPT, GPTQ, SVD": in_turn(text, "sparsegpt", "int", budget, code),
        "Wanda, trellis, SVD": in_turn(text, "wanda", "trellis", budget, code),
        "Wanda, GPTQ, SVD": in_turn(text, "wanda", "int", budget, code),
        "SparseGPT, trellis": in_turn(text, "sparsegpt", "trellis", budget, code, rank=0),
        "zeros and bits": chosen(replace(trellis, **zeros)),
        "bits alone": chosen(trellis),
        f"bits, rank {RANK}": chosen(replace(trellis, **low)),
    }


def budget_of(text: str, code: int) -> float:
    """Bits a weight that the parts in turn take with integers, over all matrices."""
    linears = design.matrices(models.open(common.BASE)).linears.values()
    pattern, total = patterns.parse(text), 0.0
    for out, width in linears:
        scales = 16 * out * math.ceil(width / GROUP)
        kept = code * out * width * SHARE
        low = coding.factors_bits((out, width), RANK, FACTOR_BITS) * out * width
        total += patterns.stored_bits((out, width), pattern) + kept + scales + low
    return total / sum(out * width for out, width in linears)


def error(m: Matrix, W: Tensor) -> float:
    """Weighted by importance."""
    g = normalized(len(m.W), m.importance)
    return energy_of(m.W - W, m.H, g) / energy_of(m.W, m.H, g)


def run(way: Way, rows: list[Matrix], model: Any) -> common.Json:
    """Every matrix of `model` replaced; what it took and what error it made."""
    bits, errors, began = 0, [], time.process_time()
    for m in rows:
        W, taken = way(m)
        bits, errors = bits + taken, [*errors, error(m, W)]
        set_weight(model, m.name, W)
    weights = sum(m.W.numel() for m in rows)
    return {
        "bits": bits / weights,
        "error": float(np.mean(errors)),
        "cpu_seconds": time.process_time() - began,
    }


def measure(name: str, rows: list[Matrix], text: str, code: int) -> None:
    """All ways at one budget; saved after each, and those that this code has measured stay."""
    original, ids = load.model(common.BASE, "cpu"), bench_quality.windows()
    budget = budget_of(text, code)
    before = common.load(name) if common.fresh(name, keep=False) else None
    found = before or {
        "pattern": text,
        "code": code,
        "budget": budget,
        "ways": {},
        "settings": {"rank": RANK, "factor_bits": FACTOR_BITS, "state_bits": STATE_BITS},
        "stamp": common.stamp(),
    }
    for title, way in ways(text, code, budget).items():
        if title not in found["ways"]:
            model = copy.deepcopy(original)
            cost = run(way, rows, model)
            samples = [quality.compare(original, model, some, name=t) for t, some in ids.items()]
            result = {s.name: [round(float(x), 6) for x in s.result] for s in samples}
            first = found.setdefault("nll", result)  # of slim, the first
            excess = asdict(quality.summarize(samples).excess)
            found["ways"][title] = {**cost, "excess": excess, "over_slim": _over(result, first)}
            common.save(name, found)
        print(f"{text} {budget:.3f}: {title:28}", _line(found["ways"][title]), flush=True)


def _over(result: Mapping[str, Any], slim: Mapping[str, Any]) -> common.Json:
    mean = intervals.mean([np.subtract(result[t], slim[t]) for t in result])
    return asdict(mean.interval().through(math.expm1))


def _line(one: common.Json) -> str:
    return (
        f"{one['bits']:.3f} bits  error {one['error']:.5f}  "
        f"excess {100 * one['excess']['value']:.2f}%"
        f"  over slim {100 * one['over_slim']['value']:+.2f}%  {one['cpu_seconds']:.0f} CPU s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="whatever was measured stays")
    args = parser.parse_args()
    torch.set_num_threads(1)
    common.require_assets()
    rows: list[Matrix] = []
    for text in PATTERNS:
        for code in CODES:
            name = f"slim/{text.replace(':', 'of')}-{code}"
            if args.keep and common.load(name):
                continue
            rows = rows or matrices()
            measure(name, rows, text, code)


if __name__ == "__main__":
    main()
