"""Which ratio of zeros fits which task and model: `sprue sweep` on base6m and on smaller models.

For each of the four texts train.txt is calibrated on and test.txt measured with, in windows of 256
tokens; every point is also measured on the three other texts. Unstructured zeros are shared out by
predicted damage; N:4 patterns are the same in every linear.

The smaller models are not in the repository; they are made from the same texts, both in the same
number of steps, with

    python demo/train.py TEXT --out SMALL --minutes 55 --hidden 128 --layers 4 --heads 4 \\
        --kv-heads 2 --ffn 384
    python demo/train.py TEXT --out TINY --steps STEPS --hidden 64 --layers 2 --heads 4 \\
        --kv-heads 2 --ffn 192

    python benchmarks/bench_sweep.py [--model small=SMALL --model tiny=TINY] [--work DIR] \\
        [--only NAME ...] [--row RATIOS] [--pattern P ...]

Points are kept in DIR (by default a folder of the system for temporary files), so that a run that
was cut short goes on there; results/sweep/NAME.json gets the figures of all points.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import common  # isort: skip  # before torch, which then takes one thread
import torch

WINDOWS, CONTEXT, SEED = 48, 256, 0
ROW = "0..90%"
PATTERNS = ("unstructured", "N:4")
KEEP = "99%"


def measure(name: str, model: Path, args: argparse.Namespace) -> common.Json:
    """One sweep in a process of its own."""
    stamp = common.stamp()
    data = [
        word
        for text in common.TEXTS
        for word in (
            "--data",
            f"{text}={common.ASSETS}/text/{text}/train.txt,{common.ASSETS}/text/{text}/test.txt",
        )
    ]
    numbers = {"--windows": WINDOWS, "--context": CONTEXT, "--seed": SEED}
    options = [str(word) for pair in numbers.items() for word in pair]
    options += [word for pattern in args.pattern or PATTERNS for word in ("--pattern", pattern)]
    command = [
        "sweep",
        model,
        *data,
        "--out",
        args.work / name,
        "--sparsity",
        args.row,
        "--keep",
        KEEP,
    ]
    before = _count(args.work / name)
    ran = common.sprue([*command, *options, "--quiet", "--json"], args.work / f"{name}.cost.json")
    cost = {key: ran["cost"][key] for key in ("seconds", "cpu_seconds", "peak_bytes")}
    cost["points"] = _count(args.work / name) - before
    printed = {key: value for key, value in ran["printed"].items() if key not in ("model", "pick")}
    return {"model": name, **shape(model), **printed, "cost": cost, "stamp": stamp}


def _count(folder: Path) -> int:
    """Points that are there: a run that goes on measures only what is not."""
    return len(list((folder / "points").glob("*.json")))


def shape(model: Path) -> common.Json:
    """What tells the models apart."""
    from sprue import models
    from sprue.plan import design

    source = models.open(model)
    config = {key: source.raw[key] for key in ("hidden_size", "num_hidden_layers", "vocab_size")}
    return {"config": config, "weights": design.matrices(source).weights, "steps": _steps(model)}


def _steps(model: Path) -> int | None:
    """Of training, where the state of it lies beside the model."""
    state = model / ".train/state.pt"
    return int(torch.load(state, weights_only=True)["step"]) if state.is_file() else None


def show(found: common.Json) -> None:
    """A line for each curve."""
    for curve in found["curves"]:
        enough = curve["keeps"]
        kept = "none" if enough is None else f"{100 * enough['ratio']:.1f}%"
        bend = curve["knee"]
        knee = "none" if bend is None else f"{100 * bend['ratio']:.1f}%"
        print(
            f"{found['model']:8} {curve['task']:10} {curve['pattern']:14} knee {knee:>6}  "
            f"keeps 99% up to {kept:>6}",
            flush=True,
        )


def _named(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    return name, Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", type=_named, default=[], metavar="NAME=FOLDER")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "sprue-sweep")
    parser.add_argument("--row", default=ROW, help="ratios of unstructured zeros")
    parser.add_argument("--pattern", action="append", help="in the place of unstructured and N:4")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    args = parser.parse_args()
    common.require_assets()
    args.work.mkdir(parents=True, exist_ok=True)
    for name, model in {"base6m": common.BASE, **dict(args.model)}.items():
        if args.only and name not in args.only:
            continue
        common.save(f"sweep/{name}", measure(name, model, args))
        done = common.load(f"sweep/{name}")
        assert done is not None
        show(done)


if __name__ == "__main__":
    main()
