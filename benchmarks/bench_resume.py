"""kill -9 at random moments, then --resume: whether the bytes are those of a run left alone.

The embedded model, calibrated on its own texts. Each of the runs is killed at a moment drawn evenly
from how long a run takes, is resumed, and killed again in one of three cases.

    python benchmarks/bench_resume.py [--kills 20] [--preset NAME]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common  # isort: skip  # before torch, which then takes one thread
import numpy as np

from sprue import demo

SEED, WINDOWS, CONTEXT = 0, 24, 128
AGAIN = 3  # every so many runs is killed twice
WAYS = {
    "best": ["--bits", "3"],
    "zeros": ["--bits", "3", "--pattern", "2:4"],
    "sparsegpt": ["--preset", "sparsegpt", "--sparsity", "50%"],
}


def command(out: Path, way: str, *more: str) -> list[str]:
    """As typed, in a process of its own."""
    calibrate = [part for path in demo.calibration_files() for part in ("--calibrate", str(path))]
    numbers = ["--windows", str(WINDOWS), "--context", str(CONTEXT), "--seed", str(SEED)]
    asked = [*WAYS[way], *calibrate, *numbers, "--quiet", *more]
    model = str(demo.model_path())
    return [sys.executable, "-m", "sprue.cli", "compress", model, "--out", str(out), *asked]


def digest(folder: Path) -> str:
    """Over the names and bytes of all files."""
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        whole.update(file.name.encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()


def killed(line: list[str], seconds: float) -> bool:
    """Whether it was still running when it was killed."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def finished(line: list[str]) -> float:
    """How long it took."""
    start = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(line)} failed:\n{done.stderr}")
    return time.monotonic() - start


def measure(way: str, kills: int, scratch: Path) -> common.Json:
    """The digests of all runs beside that of the run left alone."""
    stamp = common.stamp()
    seconds = finished(command(scratch / "alone", way))
    alone = digest(scratch / "alone")
    rng, rows, longest = np.random.default_rng(SEED), list[common.Json](), seconds
    while len(rows) < kills:
        i, (first, second) = len(rows), rng.uniform(0, longest, 2).tolist()
        out = scratch / f"run{i}"
        cut = [killed(command(out, way), first)]
        if not cut[0]:  # it was done sooner than the run left alone: no kill, another moment
            longest = first
            shutil.rmtree(out)
            continue
        if i % AGAIN == 0:
            cut.append(killed(command(out, way, "--resume"), second / 2))
        whole = out.exists()
        saved = (scratch / f".run{i}.partial/progress/state.json").is_file()
        took = 0.0 if whole else finished(command(out, way, "--resume"))
        rows.append(
            {
                "killed_at": [first, second / 2][: len(cut)],
                "killed": cut,
                "saved": saved,
                "resumed_seconds": took,
                "identical": digest(out) == alone,
            }
        )
        print(f"{way:10} run {i:2}: {rows[-1]}", flush=True)
    return {"way": way, "seconds": seconds, "runs": rows, "stamp": stamp}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, metavar="N")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    for way in args.only:
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(way, args.kills, Path(scratch))
        common.save(f"resume/{way}", found)
        same = sum(row["identical"] for row in found["runs"])
        print(f"{way}: {same} of {len(found['runs'])} in identical bytes")


if __name__ == "__main__":
    main()
