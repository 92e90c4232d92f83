"""Experts from dense feed-forward layers: what is kept, with how many, and how fast a layer is.

base6m, calibrated on text/*/train.txt in windows of 256, measured on 40 windows of each
text/*/test.txt; kept is the original's perplexity over the result's. The layer is gated, 4096 wide
with 11008 neurons, seeded random weights, float32, batch 1, timed in turns (A B A B).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

# A thread that spins for one that others keep from running makes two of them slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import common  # isort: skip  # before torch, which then takes one thread
import torch
from torch import Tensor, nn

from sprue import data
from sprue.experts import experts
from sprue.plan.split import Split
from sprue.proof import intervals, load, quality
from sprue.runtime.experts import Expert, Experts, like

CONTEXT, WINDOWS, TESTED, SEED = 256, 64, 160, 0
WIDTH, NEURONS, ROUNDS = 4096, 11008, 41
TRAIN, TEST = ([common.ASSETS / f"text/{t}/{kind}.txt" for t in common.TEXTS]
               for kind in ("train", "test"))  # fmt: skip
ABLATIONS: dict[str, dict[str, Any]] = {
    "no repair": {"repair": False},
    "router of representative neurons (CMoE)": {"router": "representative"},
    "one of the two always computes (CMoE)": {"shared": 1},
    "groups at random": {"grouping": "random"},
    "groups by k-means on co-activation": {"grouping": "coactivation"},
    "groups by k-means on gate rows (MoEfication)": {"grouping": "weights"},
    "router at random": {"router": "random"},
    "groups and router at random, no repair": {
        "grouping": "random",
        "router": "random",
        "repair": False,
    },
}


def measure(**split: Any) -> common.Json:
    """Convert base6m without distillation, and compare what is read back from disk."""
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        report = experts(common.BASE, out, Split(seed=SEED, **split), calibrate=TRAIN,
                         windows=WINDOWS, context=CONTEXT, progress=False)  # fmt: skip
        seconds = time.process_time() - begin
        kept = compare(out)
    lost = [layer.lost for layer in report.layers]
    load_of = [layer.load for layer in report.layers]
    told = {key: report.artifact[key] for key in ("parameters", "feed_forward", "split")}
    return {**told, **kept, "lost": lost, "load": load_of, "cpu_seconds": seconds}


def compare(out: Path) -> common.Json:
    """Kept and KL with their intervals, over the test texts."""
    original, result = load.model(common.BASE, "cpu"), load.model(out, "cpu")
    tokenizer, samples = load.tokenizer(common.BASE, out), []
    for path in TEST:
        ids = data.windows(tokenizer, data.read([path]), CONTEXT, TESTED // len(TEST), None)
        samples.append(quality.compare(original, result, ids, name=path.parent.name))
    found = quality.summarize(samples)
    return {name: asdict(getattr(found, name)) for name in ("kept", "kl_nats", "top1_agreement")}


def layer_times() -> common.Json:
    """A dense layer and 2 of 8 experts, in turns; the ratio is dense over experts."""
    dense, sparse = layers()
    generator = torch.Generator().manual_seed(SEED)
    found: common.Json = {"width": WIDTH, "neurons": NEURONS, "experts": 8, "active": 2}
    found["wait_policy"] = os.environ["OMP_WAIT_POLICY"]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        rows = []
        for _ in range(ROUNDS):
            x = torch.randn(1, 1, WIDTH, generator=generator)
            rows.append((clock(dense, x), clock(sparse, x)))
        ratio = intervals.median([a / b for a, b in rows[1:]])
        a, b = (intervals.median([row[i] for row in rows[1:]]).value for i in (0, 1))
        found[f"threads_{threads}"] = {"dense": a, "experts": b, "ratio": asdict(ratio)}
    torch.set_num_threads(1)
    return found


@torch.no_grad()
def layers() -> tuple[nn.Module, Experts]:
    """The layer, and its neurons in eight experts in order; the answers agree when all compute."""
    generator = torch.Generator().manual_seed(SEED)
    dense = Expert(WIDTH, NEURONS, True, False, nn.SiLU())
    for parameter in dense.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) / WIDTH**0.5)
    layout = Split(8, 2).layout(NEURONS, WIDTH, True, False) | {"activation": "activation"}
    sparse = like(dense, layout, torch.float32, "cpu")
    sparse.router.weight.copy_(torch.randn(8, WIDTH, generator=generator))
    for one in (sparse.router.bias, sparse.bias, sparse.gain):
        one.zero_()
    first = 0
    for expert in sparse.experts:
        mine = slice(first, first := first + expert.up.out_features)
        expert.gate.weight.copy_(dense.gate.weight[mine])
        expert.up.weight.copy_(dense.up.weight[mine])
        expert.down.weight.copy_(dense.down.weight[:, mine])
    check(dense, sparse)
    return dense.eval(), sparse.eval()


def check(dense: nn.Module, sparse: Experts) -> None:
    """All eight give what the dense layer gives."""
    x, active = torch.ones(1, 1, WIDTH), sparse.active
    sparse.active = 8
    torch.testing.assert_close(sparse(x), dense(x), rtol=1e-3, atol=1e-3)
    sparse.active = active


@torch.inference_mode()
def clock(module: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    module(x)
    return time.perf_counter() - begin


def distilled(options: list[str], threads: int) -> common.Json:
    """The command line with a distillation; what it printed, and what is kept on the test texts."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "out"
        command = ["experts", str(common.BASE), "--out", str(out), *options]
        command += [part for path in TRAIN for part in ("--calibrate", str(path))]
        command += ["--context", str(CONTEXT), "--seed", str(SEED), "--quiet", "--json"]
        ran = common.sprue(command, Path(scratch) / "cost.json", threads)
        kept = compare(out)
    told = {k: ran["printed"][k] for k in ("parameters", "feed_forward", "split", "looks")}
    cost = {key: ran["cost"][key] for key in ("seconds", "cpu_seconds", "peak_bytes")}
    return {**told, **kept, "cost": cost, "options": options, "threads": threads}


def store(name: str, stamp: common.Json, content: common.Json) -> None:
    common.save(f"experts/{name}", {**content, "stamp": stamp})
    print(name, json.dumps({k: v for k, v in content.items() if k in ("kept", "kl_nats")}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="measure only what is not there yet")
    parser.add_argument("--only", metavar="PART", help="layer, curve, ablation or distillation")
    parser.add_argument("--tune", default="20", help="minutes of the last run")
    parser.add_argument("--threads", type=int, default=2, help="of the last run")
    args = parser.parse_args()
    common.require_assets()
    jobs: dict[str, Callable[[], common.Json]] = {"layer": layer_times}
    jobs |= {f"curve-{k}": lambda k=k: measure(active=k) for k in (2, 4, 1, 3, 6, 8, 5, 7)}
    for i, (name, how) in enumerate(ABLATIONS.items()):
        jobs[f"ablation-{i}"] = lambda name=name, how=how: {"name": name, **measure(**how)}
    for k in (4, 2):
        options = ["--active", str(k), "--tune", "2"]
        jobs[f"distillation-{k}"] = lambda options=options: distilled(options, 1)
    jobs["distillation-best"] = lambda: distilled(
        ["--active", "2", "--tune", args.tune], args.threads
    )
    for name, job in jobs.items():
        wanted = args.only is None or name.startswith(args.only)
        if wanted and not common.fresh(f"experts/{name}", args.keep):
            store(name, common.stamp(), job())


if __name__ == "__main__":
    main()
