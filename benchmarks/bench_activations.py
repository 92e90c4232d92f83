"""Columns that are not read, against a dense product of torch in float32: a ratio of times.

One gated feed-forward layer of 4096 x 11008, y = D (silu(G x) * U x), and one product like its U x,
batch 1, seeded random weights, inputs with a Laplace distribution: at every share of zeros the
thresholds that give it on 64 vectors that are not timed. Both sides run as modules run them, the
dense one through torch.nn.functional.linear, ours through the packed product with its threshold.
They take turns (A B, B A) on inputs that are new each time, so that no columns wait in a cache; the
median of the paired ratios stands with the interval of the sign test, and beside it that of CPU
seconds: where others use the machine, what takes long waits for them more than its share. Before
the timing, ours is compared with float64. Columns stored in bfloat16 halve what is read once more:
that ratio is shown beside, also over dense float32, and stated as such.

    python benchmarks/bench_activations.py [--keep]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import common  # isort: skip  # before torch, which then takes one thread
import torch
from torch import Tensor, nn

from sprue.proof import intervals
from sprue.weights import packed, threshold
from sprue.weights.grids import columns

WIDTH, INNER, SEED = 4096, 11008, 0
ZEROS = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
THREADS, ROUNDS, SET_ON = (1, 2), 15, 64
DTYPES = (torch.float32, torch.bfloat16)

Weights = Mapping[str, Tensor]
Layer = Callable[[Tensor], Tensor]


def weights() -> dict[str, Tensor]:
    """gate, up [INNER, WIDTH] and down [WIDTH, INNER], scaled as initializations are."""
    shapes = {"gate": (INNER, WIDTH), "up": (INNER, WIDTH), "down": (WIDTH, INNER)}
    generator = torch.Generator().manual_seed(SEED)
    return {
        name: torch.randn(*shape, generator=generator) / shape[1] ** 0.5
        for name, shape in shapes.items()
    }


def laplace(rows: int, seed: int) -> Tensor:
    """[rows, WIDTH] of unit scale."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(rows, WIDTH, generator=generator, dtype=torch.float64) - 0.5
    return (-uniform.sign() * torch.log1p(-2 * uniform.abs())).float()


def dense_layer(W: Weights) -> Layer:
    """The gated layer as torch runs it."""

    def run(x: Tensor) -> Tensor:
        gate, up = nn.functional.linear(x, W["gate"]), nn.functional.linear(x, W["up"])
        return nn.functional.linear(nn.functional.silu(gate) * up, W["down"])

    return run


def sparse_layer(stored: Mapping[str, Any], limits: Mapping[str, float]) -> Layer:
    """The same with thresholds."""
    told = {n: threshold.attach(meta, limits[n], 0.5) for n, (meta, _) in stored.items()}

    def one(name: str, x: Tensor) -> Tensor:
        return packed.matmul(told[name], stored[name][1], x)

    def run(x: Tensor) -> Tensor:
        return one("down", nn.functional.silu(one("gate", x)) * one("up", x))

    return run


def dense_product(W: Weights) -> Layer:
    """One product, 4096 to 11008."""
    return lambda x: nn.functional.linear(x, W["up"])


def sparse_product(stored: Mapping[str, Any], limits: Mapping[str, float]) -> Layer:
    """The same with a threshold."""
    meta, tensors = stored["up"]
    told = threshold.attach(meta, limits["up"], 0.5)
    return lambda x: packed.matmul(told, tensors, x)


def limits_of(W: Weights, zeros: float) -> dict[str, float]:
    """Thresholds that make a share of zeros; those of `down` behind those of the others."""
    x = laplace(SET_ON, SEED + 1)
    limit = threshold.at_share(x, zeros)
    small = threshold.applied(x, limit)
    inner = nn.functional.silu(small @ W["gate"].T) * (small @ W["up"].T)
    return {"gate": limit, "up": limit, "down": threshold.at_share(inner, zeros)}


def exact(W: Weights, limits: Mapping[str, float], x: Tensor, gated: bool) -> Tensor:
    """In float64, from the definition."""
    small = threshold.applied(x, limits["up"]).double()
    up = small @ W["up"].double().T
    if not gated:
        return up
    inner = nn.functional.silu(small @ W["gate"].double().T) * up
    return threshold.applied(inner, limits["down"]) @ W["down"].double().T


def check(ours: Layer, expected: Tensor, x: Tensor) -> float:
    """The relative error, which must be that of float32."""
    error = float(torch.linalg.norm(ours(x).double() - expected) / torch.linalg.norm(expected))
    assert error < 1e-5, error
    return error


def race(dense: Layer, ours: Layer, seed: int) -> common.Json:
    """Both in turns on new inputs; seconds, and the paired ratio dense / ours."""
    times = torch.zeros(2, 2, ROUNDS + 2, dtype=torch.float64)  # wall and CPU, dense and ours
    for k, x in enumerate(laplace(ROUNDS + 2, seed)[:, None]):
        for which in (0, 1) if k % 2 else (1, 0):
            start = clocks()
            (dense, ours)[which](x)
            times[:, which, k] = clocks() - start
    wall, cpu = times[:, :, 2:]  # two warm up
    return {
        "dense_seconds": float(wall[0].median()),
        "ours_seconds": float(wall[1].median()),
        "ratio": asdict(intervals.median((wall[0] / wall[1]).numpy())),
        "cpu_ratio": asdict(intervals.median((cpu[0] / cpu[1]).numpy())),
    }


def clocks() -> Tensor:
    """Seconds that went by, and CPU seconds of all threads: those that others take do not count."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


def measure() -> list[common.Json]:
    """Every case at every share of zeros, on one thread and two."""
    W, rows = weights(), []
    layers = {"gated": (dense_layer, sparse_layer), "product": (dense_product, sparse_product)}
    for dtype in DTYPES:
        rounded = {n: w.to(dtype).float() for n, w in W.items()}
        stored = {n: columns.pack(w.to(dtype)) for n, w in W.items()}
        for zeros in ZEROS:
            limits = limits_of(rounded, zeros)
            for case, (make_dense, make_ours) in layers.items():
                dense, ours = make_dense(rounded), make_ours(stored, limits)
                x = laplace(1, SEED + 2)
                error = check(ours, exact(rounded, limits, x, case == "gated"), x)
                for threads in THREADS:
                    torch.set_num_threads(threads)
                    row = {"case": case, "stored": str(dtype).removeprefix("torch.")}
                    row |= {"zeros": zeros, "threads": threads, "error": error}
                    rows.append(row | race(dense, ours, SEED + 3 + threads))
                    show(rows[-1])
                torch.set_num_threads(1)
    return rows


def show(row: common.Json) -> None:
    """One measurement in a line."""
    ratio = row["ratio"]
    print(
        f"{row['case']:8} {row['stored']:9} {100 * row['zeros']:.0f}% zeros, {row['threads']} "
        f"threads: {1e3 * row['dense_seconds']:.1f} -> {1e3 * row['ours_seconds']:.1f} ms, "
        f"vs. {ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}), CPU seconds "
        f"vs. {row['cpu_ratio']['value']:.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="only show what was measured before")
    args = parser.parse_args()
    torch.set_num_threads(1)
    name = "activations/speed"
    if common.fresh(name, args.keep):
        found = common.load(name)
        assert found is not None
        for row in found["rows"]:
            show(row)
        return
    settings = {"width": WIDTH, "inner": INNER, "rounds": ROUNDS, "seed": SEED}
    common.save(name, {"rows": measure(), "settings": settings, "stamp": common.stamp()})


if __name__ == "__main__":
    main()
