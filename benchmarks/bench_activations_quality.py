"""What activation sparsity keeps of base6m: the same share everywhere, TEAL's greedy, and ours.

Every point sets thresholds on the same 64 windows of 256 tokens of the four train.txt, block after
block, writes the artifact, and measures what `from_pretrained` loads from it on 20 windows of 256
tokens of each test.txt: the mean of the four negative log likelihoods, paired window by window.

`greedy` is Algorithm 1 of TEAL (Liu et al. 2024, arXiv:2408.14690): blocks have the same share;
within it, step by step, that matrix takes more zeros whose step hurts the block's output least.

    python benchmarks/bench_activations_quality.py [--only NAME ...] [--keep]
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common  # isort: skip  # before torch, which then takes one thread
import torch
from torch import Tensor

import bench_quality
from sprue import models
from sprue.models import Source, Stream, Writer, thresholded
from sprue.models.fisher import fisher
from sprue.plan import calibration, zeros, zeros_artifact
from sprue.plan.room import batch_of
from sprue.plan.zeros_walk import ZerosWalk
from sprue.proof import load, quality
from sprue.weights import threshold

WINDOWS, CONTEXT, SEED, EVALUATED = 64, 256, 0, 20
TARGETS = (0.25, 0.4, 0.5, 0.6, 0.7)
SEARCHED, STEP, MOST = 2, 0.01, 0.95  # windows, step and largest share of the greedy search

Shares = Mapping[str, float]


@dataclass(frozen=True)
class Point:
    """One way to share zeros out, at one share of all weights."""

    method: str
    target: float
    shift: bool

    @property
    def name(self) -> str:
        return f"{self.method}{'-shift' if self.shift else ''}-{round(100 * self.target)}"


def points() -> list[Point]:
    """Those that are compared, then what each part of ours adds at one half."""
    rows = [("best", True), ("even", False), ("greedy", False)]
    ablation = [("best", False), ("uncorrected", False), ("even", True), ("greedy", True)]
    return [
        *(Point(method, target, shift) for target in TARGETS for method, shift in rows),
        *(Point(method, 0.5, shift) for method, shift in ablation),
    ]


class Maker:
    """Shares of zeros by method; what they need is measured once."""

    def __init__(self, source: Source, ids: Tensor) -> None:
        self.source, self.ids = source, ids
        self._kept: dict[str, Any] = {}

    def shares(self, point: Point) -> Shares:
        if point.method == "even":
            return dict.fromkeys(self._curves(), point.target)
        if point.method == "greedy":
            return self._once("greedy", self._greedy)[point.target]
        curves = self._curves() if point.method == "best" else self._plain()
        return {n: level.share for n, level in zeros.share_out(curves, point.target).items()}

    def curves(self) -> zeros.Curves:
        return self._curves()

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def _stream(self, count: int) -> Stream:
        picked = torch.linspace(0, len(self.ids) - 1, count).long()
        return Stream(self.source, self.ids[picked], batch_of(CONTEXT))

    def _curves(self) -> Any:
        return self._once("curves", lambda: zeros.measure(self._stream(32), SEED))

    def _plain(self) -> Any:
        """The curves as each linear alone gives them."""
        stream = self._stream(32)
        rows = fisher(stream, seed=SEED).rows
        return self._once("plain", lambda: zeros._curves(stream, rows, lambda: None))

    def _greedy(self) -> dict[float, Shares]:
        stream, found = self._stream(SEARCHED), {target: {} for target in TARGETS}
        hidden = stream.embed()
        for i in range(stream.blocks):
            for target, shares in greedy(stream, i, hidden).items():
                found[target].update(shares)
            stream.run(stream.load(i), i, hidden, out=hidden)
        return found


def greedy(stream: Stream, i: int, hidden: Tensor) -> dict[float, Shares]:
    """Block i's shares at each target, its input dense."""
    family, block = stream.source.family, stream.load(i)
    groups = family.groups(stream.source.config)
    inputs: dict[str, Tensor] = {}
    taps = {g.linears[0]: keeper(inputs, g.inputs) for g in groups}
    exact = stream.run(block, i, hidden, taps)
    of = {local: g.inputs for g in groups for local in g.linears}
    sizes = {local: stream.source.weight(f"{family.block(i)}.{local}").numel() for local in of}
    whole, shares, found = sum(sizes.values()), dict.fromkeys(of, 0.0), {}

    def error(trial: Shares) -> float:
        limits = {n: threshold.at_share(inputs[of[n]], p) for n, p in trial.items() if p}
        with thresholded(block, limits):
            return float((stream.run(block, i, hidden) - exact).square().sum())

    while len(found) < len(TARGETS):
        trials = [
            {**shares, n: min(shares[n] + STEP * whole / sizes[n], MOST)}
            for n in of
            if shares[n] < MOST
        ]
        shares = min(trials, key=error)
        reached = sum(p * sizes[n] for n, p in shares.items()) / whole
        for target in (t for t in TARGETS if t not in found and reached >= t):
            # the last step goes past the target: all are scaled back to it
            found[target] = {n: p * target / reached for n, p in shares.items()}
    return {
        target: {f"{family.block(i)}.{n}": p for n, p in some.items()}
        for target, some in found.items()
    }


def keeper(kept: dict[str, Tensor], name: str) -> Callable[[Tensor], None]:
    """A tap that collects inputs under a name."""

    def keep(x: Tensor) -> None:
        kept[name] = torch.cat([kept[name], x]) if name in kept else x.clone()

    return keep


class Remembered:
    """A model that is asked for the same windows again and again."""

    def __init__(self, model: Any) -> None:
        self._model, self._known = model, {}

    def __call__(self, ids: Tensor) -> Any:
        key = ids.numpy().tobytes()
        if key not in self._known:
            self._known[key] = self._model(ids).logits
        return SimpleNamespace(logits=self._known[key])


def measure(point: Point, maker: Maker, original: Remembered, ids: Mapping[str, Tensor]) -> Any:
    """Write the artifact, load it, compare."""
    shares = maker.shares(point)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "model"
        with Writer(out) as writer:
            walk = ZerosWalk(maker.source, maker.ids, shares, writer, shift=point.shift)
            records = walk.run()
            zeros_artifact.finish(
                writer, maker.source, records, {}, point.target, SEED, maker.curves()
            )
        result = load.model(out, "cpu")
    samples = [quality.compare(original, result, some, name=t, batch=4) for t, some in ids.items()]
    whole = quality.summarize(samples)
    return {
        "point": asdict(point),
        "met": zeros_artifact.met(records),
        "excess": asdict(whole.excess),
        "kl_nats": asdict(whole.kl_nats),
        "kept": asdict(whole.kept),
        "top1_agreement": asdict(whole.top1_agreement),
        "shares": {n: r.layout["threshold"]["zeros"] for n, r in records.items()},
        "settings": {"windows": WINDOWS, "context": CONTEXT, "seed": SEED, "evaluated": EVALUATED},
        "stamp": common.stamp(),
    }


def show(name: str, found: common.Json) -> None:
    """One point in a line."""
    excess, kl = found["excess"], found["kl_nats"]
    print(
        f"{name:20} zeros {100 * found['met']:.1f}%  excess {100 * excess['value']:.2f}% "
        f"({100 * excess['low']:.2f} to {100 * excess['high']:.2f})  KL {kl['value']:.4f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the points")
    parser.add_argument("--keep", action="store_true", help="whatever was measured stays")
    args = parser.parse_args()
    torch.set_num_threads(1)
    common.require_assets()
    source = models.open(common.BASE)
    train = [common.ASSETS / f"text/{text}/train.txt" for text in common.TEXTS]
    maker = Maker(source, calibration.read(source, train, WINDOWS, CONTEXT, SEED).ids)
    original, ids = Remembered(load.model(common.BASE, "cpu")), bench_quality.windows(EVALUATED)
    chosen = {p.name: p for p in points() if args.only is None or p.name in args.only}
    for point in (chosen[name] for name in args.only or chosen):
        name = f"activations/quality/{point.name}"
        if not common.fresh(name, args.keep):
            common.save(name, measure(point, maker, original, ids))
        found = common.load(name)
        assert found is not None
        assert math.isfinite(found["excess"]["value"])
        show(point.name, found)


if __name__ == "__main__":
    main()
