"""`sprue demo --fleet`: usage, specialists for what is asked most, and what they save.

Needs the assets. The specialists of an earlier run in the same folder are taken up.

    python benchmarks/bench_fleet.py [--folder DIR] [--tune MINUTES] [--threads 2]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import common  # isort: skip

_TOLD = (
    *("statement", "admitted", "flops", "bytes", "shape", "layers", "own", "seconds"),
    "before_quantization",
)

_PLACES = ("log", "fleet")  # where they lay


def measure(folder: Path, minutes: float | None, threads: int) -> common.Json:
    """Run it in a process of its own, and keep of its figures what the table and plots need."""
    tune = [] if minutes is None else ["--tune", str(minutes)]
    words = ["demo", "--fleet", "--out", folder, "--json", "--quiet", *tune]
    with tempfile.TemporaryDirectory() as other:
        # 1: less is kept than was asked for, which is a figure too
        done = common.sprue(words, Path(other) / "cost.json", threads, (0, 1))
    told = done["printed"]
    specialists = {
        name: {
            **{key: one[key] for key in _TOLD},
            "steps": one["looks"][-1]["step"],
        }
        for name, one in told["specialists"].items()
    }
    replay = {key: one for key, one in told["replay"].items() if key not in _PLACES}
    return {
        **told,
        "replay": replay,
        "specialists": specialists,
        "threads": threads,
        "cost": done["cost"],
        "stamp": common.stamp(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("out/bench-fleet"), metavar="DIR")
    parser.add_argument("--tune", type=float, metavar="MINUTES", help="for each specialist")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    args = parser.parse_args()
    common.require_assets()
    found = measure(args.folder, args.tune, args.threads)
    common.save("fleet/demo", found)
    print(found["replay"]["statement"])


if __name__ == "__main__":
    main()
