"""Quality per byte on base6m: the whole curve, and the sizes that peers were measured at.

Each point compresses base6m in a process of its own (calibration: 192 windows of 256 tokens of the
four train.txt) and measures what `from_pretrained` loads from the folder: 40 windows of 256 tokens
of each test.txt, a sample with seed 0 from their first 400,000 characters, the mean of the four
negative log likelihoods. On these windows the original has the stated perplexity of 25.304.

One file for each point in results/quality: a run that was cut short goes on where it was, and a
point is measured again once the code that decides it has changed (never with --keep).

    python benchmarks/bench_quality.py [--only NAME ...] [--keep]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common  # isort: skip  # before torch, which then takes one thread
import torch
from torch import Tensor

from sprue import data
from sprue.proof import load, quality

WINDOWS, CONTEXT, SEED = 192, 256, 0
EVALUATED, CHARACTERS = 40, 400_000
BITS = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
PRESETS = {
    "rtn": (2.56, 3.3, 4.31),  # what NOTE.md has of GPTQ and rounding, scales included
    "gptq": (2.56, 3.3, 4.31),
    "caldera": (2.0, 2.5, 3.0, 4.0),
}


@dataclass(frozen=True)
class Point:
    """One compression: a budget in bytes or in bits a weight, and a preset or the solver's own."""

    name: str
    size: int | None = None
    bits: float | None = None
    preset: str | None = None

    def arguments(self) -> list[str]:
        """As typed."""
        budget = ["--size", str(self.size)] if self.size else ["--bits", str(self.bits)]
        return budget + (["--preset", self.preset] if self.preset else [])


def points() -> list[Point]:
    """All of them, those with a goal first."""
    peers = common.peers("base6m")
    goals = [goal["bytes"] for goal in peers["goals"]]
    rest = {p["bytes"] for p in peers["peers"] if "bytes" in p} - set(goals)
    sizes = [*goals, *sorted(size for size in rest if size < 6_000_000)]
    return [
        *(Point(f"size-{size}", size=size) for size in sizes),
        *(Point(f"bits-{bits:g}", bits=bits) for bits in BITS),
        *(
            Point(f"{preset}-{bits:g}", bits=bits, preset=preset)
            for preset, all_bits in PRESETS.items()
            for bits in all_bits
        ),
    ]


def windows(count: int = EVALUATED) -> dict[str, Tensor]:
    """The text that all peers were measured on, [count, 256] for each kind."""
    tokenizer = load.tokenizer(common.BASE, common.BASE)
    return {
        text: data.windows(
            tokenizer,
            data.read([common.ASSETS / f"text/{text}/test.txt"], characters=CHARACTERS),
            CONTEXT,
            count,
            SEED,
        )
        for text in common.TEXTS
    }


def evaluate(original: Any, folder: Path, ids: Mapping[str, Tensor]) -> common.Json:
    """What the folder's model kept; every interval is paired, window by window, 95%."""
    return figures(compared(original, folder, ids))


def compared(original: Any, folder: Path, ids: Mapping[str, Tensor]) -> list[quality.Sample]:
    """Original and the folder's model on every window, a sample for each text."""
    from transformers import AutoModelForCausalLM

    with load.quiet():
        result = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return [quality.compare(original, result, some, name=text) for text, some in ids.items()]


def figures(samples: Sequence[quality.Sample]) -> common.Json:
    """The mean over the texts, with intervals."""
    whole = quality.summarize(samples)
    return {
        "perplexity": {
            "original": whole.perplexity_original.value,
            "result": whole.perplexity_result.value,
        },
        "excess": asdict(whole.excess),
        "kl_nats": asdict(whole.kl_nats),
        "top1_agreement": asdict(whole.top1_agreement),
        "texts": {s.name: quality.summarize([s]).excess.value for s in samples},
    }


def measure(point: Point, original: Any, ids: Mapping[str, Tensor]) -> common.Json:
    """Compress, count, evaluate."""
    stamp = common.stamp()  # before: the code may change while this runs
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "model"
        train = [common.ASSETS / f"text/{text}/train.txt" for text in common.TEXTS]
        calibrate = [argument for path in train for argument in ("--calibrate", str(path))]
        numbers = {"--windows": WINDOWS, "--context": CONTEXT, "--seed": SEED}
        options = [argument for name, n in numbers.items() for argument in (name, str(n))]
        command = ["compress", str(common.BASE), "--out", str(out), *point.arguments()]
        ran = common.sprue(
            [*command, *calibrate, *options, "--quiet", "--json"], Path(scratch) / "cost.json"
        )
        printed, cost = ran["printed"], ran["cost"]
        return {
            "point": asdict(point),
            "bytes": load.nbytes(load.stored(out)),
            "bits_per_weight": printed["bits_per_weight"],
            **evaluate(original, out, ids),
            "cost": {name: cost[name] for name in ("seconds", "cpu_seconds", "peak_bytes")},
            "forecast": printed["forecast"],
            "settings": {"windows": WINDOWS, "context": CONTEXT, "seed": SEED, "threads": 1},
            "stamp": stamp,
        }


def show(found: common.Json) -> None:
    """One point in a line."""
    excess, cost = found["excess"], found["cost"]
    print(
        f"{found['point']['name']:14} {found['bytes']:>10,} bytes  "
        f"{found['bits_per_weight']['linears']:6.3f} bits  excess {100 * excess['value']:7.3f}% "
        f"({100 * excess['low']:.2f} to {100 * excess['high']:.2f})  {_against(found)}"
        f"{cost['cpu_seconds']:.0f} CPU s, {cost['peak_bytes'] / 1e6:.0f} MB",
        flush=True,
    )


def _against(found: common.Json) -> str:
    """The ratio to the best peer that takes no fewer bytes than this point was given."""
    size = found["point"]["size"]
    peers = [p for p in common.peers("base6m")["peers"] if size and p.get("bytes") == size]
    if not peers or not peers[0]["excess"]:
        return ""
    ratio = 100 * found["excess"]["value"] / peers[0]["excess"]
    return f"vs. {peers[0]['name']} {ratio:.2f}  "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of the points")
    parser.add_argument("--keep", action="store_true", help="whatever was measured stays")
    args = parser.parse_args()
    torch.set_num_threads(1)
    common.require_assets()
    chosen = [p for p in points() if args.only is None or p.name in args.only]
    original, ids = None, windows()
    for point in chosen:
        name = f"quality/{point.name}"
        if not common.fresh(name, args.keep):
            original = original or load.model(common.BASE, "cpu")
            common.save(name, measure(point, original, ids))
        found = common.load(name)
        assert found is not None
        show(found)


if __name__ == "__main__":
    main()
