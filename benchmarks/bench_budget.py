"""One budget over bits, rank and zeros against the best uniform choice, at equal bytes: base6m.

A uniform choice gives every linear the same bits, rank and pattern of zeros, and the embedding
bits of its own, which are those that serve plain codes best there; the bits are what fills the
size to the last byte. The mix is what the solver picks, once free, once with half of the weights 0.
Both are carried out by the same walk: same calibration (64 windows of 256 tokens), the original's
outputs as aim, rows weighted by Fisher information, 2^10 states, same seed.

One file for each point in results/budget; a run that was cut short goes on where it was.

    python benchmarks/bench_budget.py [--only SIZE ...] [--keep]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import common  # isort: skip  # before torch, which then takes one thread
import torch

import bench_quality
from sprue.compress import carry_out
from sprue.errors import SprueError
from sprue.models import Writer
from sprue.plan import design
from sprue.plan.demands import DAMPING, Demands
from sprue.plan.goal import Goal
from sprue.plan.job import Job
from sprue.plan.recipe import Recipe
from sprue.plan.survey import Survey
from sprue.proof import load
from sprue.weights.choice import Choice
from sprue.weights.grids import integer

SIZES = (1_964_544, 2_522_112, 3_380_224)  # of the peers' table
WINDOWS, CONTEXT, SEED, STATES, EVALUATED = 64, 256, 0, 10, 20
EMBEDDING = (3, 4, 5, 6, 8)  # bits of codes, groups of 64
PLAIN = ("none", 0)
UNIFORM = (  # pattern or share of zeros, rank
    *(("none", rank) for rank in (8, 32)),
    *(("25%", rank) for rank in (0, 32)),
    *(("50%", rank) for rank in (0, 8, 32)),
    *(("2:4", rank) for rank in (0, 32)),
)
MIXED = (None, 0.5)  # least share of zeros


@dataclass(frozen=True)
class Uniform:
    """One choice for all linears."""

    size: int
    embedding: int
    zeros: str
    rank: int

    @property
    def name(self) -> str:
        zeros = self.zeros.replace(":", "of").replace("%", "pc")
        return f"{self.size}-uniform-{zeros}-rank{self.rank}-embedding{self.embedding}"


class Bench:
    """The model, its calibration, and one survey for all points."""

    def __init__(self) -> None:
        goal = Goal.stated(None, None, None, None, SEED, Demands(sparsity=0.5))
        self.job = Job.opened(common.BASE, goal, "cpu")
        train = [common.ASSETS / f"text/{text}/train.txt" for text in common.TEXTS]
        self.texts = self.job.texts(train, WINDOWS, CONTEXT)

    @cached_property
    def survey(self) -> Survey:
        found = self.job.survey(self.texts.ids, lambda: None)
        assert found is not None
        return found

    @cached_property
    def original(self) -> Any:
        return load.model(common.BASE, "cpu")

    @cached_property
    def ids(self) -> dict[str, torch.Tensor]:
        return {text: ids[:EVALUATED] for text, ids in bench_quality.windows().items()}

    def measure(self, name: str, recipe: Recipe, told: common.Json, keep: bool) -> common.Json:
        """Carry it out and evaluate it, unless that is done."""
        name = f"budget/{name}"
        if not common.fresh(name, keep):
            stamp = common.stamp()
            with tempfile.TemporaryDirectory() as scratch:
                out = Path(scratch) / "model"
                with Writer(out) as writer:
                    arguments = (recipe, self.survey, self.texts, writer, None, lambda: None)
                    artifact = carry_out(self.job, *arguments)
                found = {
                    **told,
                    "bytes": artifact["bytes"],
                    "bits_per_weight": artifact["bits_per_weight"],
                    **bench_quality.evaluate(self.original, out, self.ids),
                    "recipe": recipe.as_dict(),
                    "stamp": stamp,
                }
            common.save(name, found)
        found = common.load(name) or {}
        excess = found["excess"]
        print(
            f"{name:60} {found['bytes']:>10,} bytes  excess {100 * excess['value']:7.3f}% "
            f"({100 * excess['low']:.2f} to {100 * excess['high']:.2f})  "
            f"KL {found['kl_nats']['value']:.5f}",
            flush=True,
        )
        return found

    def uniform(self, point: Uniform, keep: bool) -> common.Json:
        """A uniform choice that fills the size."""
        parts = self.job.parts
        outer = {
            name: Choice("int", point.embedding, group_size=64, feedback=False)
            for name in parts.outer
        }
        taken = sum(
            integer.stored_bits(parts.outer[name], point.embedding, 64, c.symmetric)
            for name, c in outer.items()
        )
        bits = (8 * (point.size - parts.rest) - taken) / parts.weights
        choice = Choice(
            *("trellis", bits),
            rank=point.rank,
            factor_bits=4,
            damping=DAMPING,
            state_bits=STATES,
            **zeros_of(point.zeros),
        )
        recipe = Recipe({**outer, **dict.fromkeys(parts.linears, choice)}, "uniform", SEED)
        return self.measure(point.name, recipe, {"uniform": asdict(point)}, keep)

    def mix(self, size: int, sparsity: float | None, keep: bool) -> common.Json:
        """What the solver picks."""
        demands = Demands(sparsity=sparsity)
        picked = design.for_size(self.job.parts, size, SEED, self.survey, design.BEST, demands)
        tensors = {
            name: replace(c, state_bits=STATES) if c.grid == "trellis" else c
            for name, c in picked.tensors.items()
        }
        told = {"mix": {"size": size, "sparsity": sparsity}}
        name = f"{size}-mix" + (f"-{100 * sparsity:.0f}pc" if sparsity else "")
        return self.measure(name, replace(picked, tensors=tensors), told, keep)


def zeros_of(text: str) -> dict[str, Any]:
    """The fields of a choice."""
    if text == "none":
        return {}
    if text.endswith("%"):
        return {"pattern": "unstructured", "sparsity": float(text[:-1]) / 100}
    return {"pattern": text}


def run(bench: Bench, size: int, keep: bool) -> Iterator[common.Json]:
    """All points of a size."""
    for sparsity in MIXED:
        yield bench.mix(size, sparsity, keep)
    plain = [bench.uniform(Uniform(size, bits, *PLAIN), keep) for bits in embeddings(bench, size)]
    yield from plain
    best = min(plain, key=lambda found: found["kl_nats"]["value"])["uniform"]["embedding"]
    for zeros, rank in UNIFORM:
        point = Uniform(size, best, zeros, rank)
        try:
            yield bench.uniform(point, keep)
        except SprueError as error:  # a mask and factors leave too few bits for codes
            print(f"budget/{point.name}: {error}", flush=True)


def embeddings(bench: Bench, size: int) -> list[int]:
    """Bits of the embedding that leave the linears at least as many, or one step below."""
    parts = bench.job.parts
    outer = sum(prod(shape) for shape in parts.outer.values())
    average = 8 * (size - parts.rest) / (parts.weights + outer)
    near = sorted(EMBEDDING, key=lambda bits: abs(bits - average - 1))
    return sorted(near[:3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", type=int, metavar="SIZE", help="of the sizes")
    parser.add_argument("--keep", action="store_true", help="whatever was measured stays")
    args = parser.parse_args()
    torch.set_num_threads(1)
    common.require_assets()
    bench = Bench()
    for size in args.only or SIZES:
        for _ in run(bench, size, args.keep):
            pass


if __name__ == "__main__":
    main()
