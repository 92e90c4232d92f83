"""Zeros on base6m beside llm-compressor's own SparseGPT and Wanda.

Both prune the linears of the blocks of base6m after the same 192 calibration windows, and both
results are measured on the same text as in `bench_quality.py`. A point is the preset of the same
name, or "joint": mask and weights found together, with nothing else (no aim at the original's
outputs, no importance of rows), so that what differs from SparseGPT is the solver alone; "aimed"
adds both.

The peer runs in an environment of its own (`peers/README.md` says how to make it), whose python is
named in SPRUE_PEER_PYTHON; where it is not named, what was measured of it before is kept. One file
for each point in results/sparsity; a run that was cut short goes on where it was.

    python benchmarks/bench_sparsity.py [--only NAME ...] [--keep]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common  # isort: skip  # before torch, which then takes one thread
import numpy as np
import torch
from torch import Tensor

import bench_quality
from sprue import models
from sprue.plan import calibration, design
from sprue.plan.recipe import Recipe
from sprue.proof import intervals, load
from sprue.weights.choice import Choice

WINDOWS, CONTEXT, SEED = 192, 256, 0
PATTERNS = {"50": 0.5, "60": 0.6, "70": 0.7, "2:4": None, "4:8": None}
PEERS = {
    "sparsegpt": ("50", "60", "70", "2:4", "4:8"),
    "wanda": ("50", "2:4", "4:8"),
}
OWN = {"joint": ("50", "60", "70", "2:4", "4:8"), "aimed": ("50", "2:4")}
_PYTHON = "SPRUE_PEER_PYTHON"


@dataclass(frozen=True)
class Point:
    """One way to prune.

    Attributes:
        how: "sparsegpt", "wanda", "joint" or "aimed".
        zeros: a share in percent, or N:M.
    """

    how: str
    zeros: str

    @property
    def name(self) -> str:
        return f"{self.how}-{self.zeros.replace(':', 'of')}"

    @property
    def peer(self) -> str:
        """The file of the peer that it is compared with."""
        method = self.how if self.how in PEERS else "sparsegpt"
        return f"sparsity/peer-{method}-{self.zeros.replace(':', 'of')}"


def points() -> list[Point]:
    """All of them."""
    table = {**PEERS, **OWN}
    return [Point(how, zeros) for how, some in table.items() for zeros in some]


def calibration_ids() -> Tensor:
    """The windows that both calibrate on, int64 [192, 256]."""
    texts = [common.ASSETS / f"text/{text}/train.txt" for text in common.TEXTS]
    return calibration.read(models.open(common.BASE), texts, WINDOWS, CONTEXT, SEED).ids


def prune_by_peer(point: Point, out: Path) -> common.Json:
    """The peer's folder; its versions and what it took."""
    ids = out.parent / "ids.npy"
    np.save(ids, calibration_ids().numpy())
    share = PATTERNS[point.zeros]
    how = ["--mask", point.zeros] if share is None else ["--sparsity", str(share)]
    script = common.PEERS / "llmcompressor_sparsity.py"
    method = point.how if point.how in PEERS else "sparsegpt"
    command = [os.environ[_PYTHON], str(script), str(common.BASE), str(ids), str(out)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--method", method, *how],
        env=environment,
        cwd=out.parent,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"the peer failed:\n{done.stderr[-4000:]}")
    versions = json.loads(done.stdout.strip().splitlines()[-1])
    return {"versions": versions, "seconds": time.monotonic() - began}


def prune(point: Point, out: Path) -> common.Json:
    """Our folder, made by the command line; what it printed and took."""
    texts = [common.ASSETS / f"text/{text}/train.txt" for text in common.TEXTS]
    calibrate = [argument for path in texts for argument in ("--calibrate", str(path))]
    numbers = {"--windows": WINDOWS, "--context": CONTEXT, "--seed": SEED}
    options = [argument for name, n in numbers.items() for argument in (name, str(n))]
    command = ["compress", str(common.BASE), "--out", str(out), *_asked(point, out.parent)]
    return common.sprue(
        [*command, *calibrate, *options, "--quiet", "--json"], out.parent / "cost.json"
    )


def _asked(point: Point, scratch: Path) -> list[str]:
    if point.how in PEERS:
        share = PATTERNS[point.zeros]
        how = ["--pattern", point.zeros] if share is None else ["--sparsity", f"{share:.0%}"]
        return ["--preset", point.how, *how]
    recipe = scratch / "recipe.yaml"
    aimed = point.how == "aimed"
    linears = design.matrices(models.open(common.BASE)).linears
    plan = Recipe(dict.fromkeys(linears, _choice(point)), "joint", SEED, aimed, aimed)
    recipe.write_text(plan.to_yaml(), encoding="utf-8")
    return ["--recipe", str(recipe)]


def _choice(point: Point) -> Choice:
    share = PATTERNS[point.zeros]
    if share is None:
        return Choice("raw", 16, pattern=point.zeros)
    return Choice("raw", 16, pattern="unstructured", sparsity=share)


def measure(point: Point, original: Any, ids: Mapping[str, Tensor], peer: bool) -> common.Json:
    """Prune, count, evaluate."""
    stamp = common.stamp()  # before: the code may change while this runs
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "model"
        ran = prune_by_peer(point, out) if peer else prune(point, out)
        samples = bench_quality.compared(original, out, ids)
        found = {
            "point": asdict(point),
            "bytes": load.nbytes(load.stored(out)),
            **bench_quality.figures(samples),
            "nll": {s.name: [round(float(x), 6) for x in s.result] for s in samples},
            "settings": {"windows": WINDOWS, "context": CONTEXT, "seed": SEED, "threads": 1},
            "stamp": stamp,
        }
    cost = ran if peer else {k: ran["cost"][k] for k in ("seconds", "cpu_seconds", "peak_bytes")}
    return {**found, "cost": cost}


def against(found: common.Json, peer: common.Json) -> common.Json:
    """Perplexity over the peer's, minus 1, paired window by window; below 0: ours is better."""
    pairs = [(np.array(found["nll"][t]), np.array(peer["nll"][t])) for t in found["nll"]]
    mean = intervals.mean([mine - other for mine, other in pairs])
    return asdict(mean.interval().through(math.expm1))


def show(point: Point, found: common.Json, peer: common.Json | None) -> None:
    """One point in a line."""
    line = f"{point.name:16} {found['bytes']:>10,} bytes  excess {_percent(found['excess'])}"
    if peer is not None:
        line += f"  peer {_percent(peer['excess'])}  ours over peer "
        line += _percent(against(found, peer))
    print(line, flush=True)


def _percent(e: Mapping[str, float]) -> str:
    return f"{100 * e['value']:.2f}% ({100 * e['low']:.2f} to {100 * e['high']:.2f})"


class Text:
    """What is read once, when the first point needs it."""

    def __init__(self) -> None:
        self._found: tuple[Any, dict[str, Tensor]] | None = None

    def __call__(self) -> tuple[Any, dict[str, Tensor]]:
        if self._found is None:
            self._found = load.model(common.BASE, "cpu"), bench_quality.windows()
        return self._found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the points")
    parser.add_argument("--keep", action="store_true", help="whatever was measured stays")
    args = parser.parse_args()
    torch.set_num_threads(1)
    common.require_assets()
    text = Text()
    for point in [p for p in points() if args.only is None or p.name in args.only]:
        # a peer does not change with our code
        if common.load(point.peer) is None and _PYTHON in os.environ:
            common.save(point.peer, measure(point, *text(), peer=True))
        name = f"sparsity/{point.name}"
        if not common.fresh(name, args.keep):
            common.save(name, measure(point, *text(), peer=False))
        found = common.load(name)
        assert found is not None
        show(point, found, common.load(point.peer))


if __name__ == "__main__":
    main()
