"""How well an audit foresees damage: every technique in every layer alone, predicted and true.

python benchmarks/bench_audit.py [--only NAME]

The audit reads examples of one file; the true damage is the divergence of the answers on examples
of another one, or of another part. Simpler predictions stand beside it (`rival`).
SPRUE_MINILM names the folder of all-MiniLM-L6-v2; without it that network is left out.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import common  # isort: skip  # before torch, which then takes one thread
import torch
from scipy.stats import spearmanr
from torch import Tensor

import rival
from sprue.audit import Subject, opened
from sprue.data.examples import Examples
from sprue.models.nets import Net
from sprue.plan import inspect as inspecting
from sprue.plan.meaning import answers_of
from sprue.structure import matrices
from sprue.structure.options import Change
from sprue.structure.readings import first

SEED = 0
_BATCH = 64
_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

Opened = tuple[Net, Examples, Examples]  # network, examples to audit with, and to measure with


@dataclass(frozen=True)
class Case:
    """A network.

    Attributes:
        name: of its file.
        open: gives it with its examples; None where it is not there.
    """

    name: str
    open: Callable[[], Opened | None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[case.name for case in CASES])
    parser.add_argument("--keep", action="store_true", help="keep what other code measured")
    args = parser.parse_args()
    common.require_assets()
    for case in CASES:
        wanted = args.only in (None, case.name)
        if wanted and not common.fresh(f"audit/{case.name}", args.keep):
            _measure(case)


def _measure(case: Case) -> None:
    found = case.open()
    if found is None:
        print(f"{case.name}: not there, left out", file=sys.stderr)
        return
    net, audited, others = found
    started = time.process_time()
    findings = inspecting.inspect(net, audited, seed=SEED)
    seconds = time.process_time() - started
    predicted = {(o.layer, o.technique): o for layer in findings.layers for o in layer.options}
    rivals = {how: rival.read(net, audited, how) for how in rival.PULLS}
    points = []
    for layer, change, nats in damages(net, audited, others):
        option = predicted[layer, change.technique]
        points.append(
            {
                "layer": layer,
                "technique": change.technique,
                "nbytes": option.nbytes,
                "true": sum(nats) / 2,
                "halves": nats,
                "predicted": option.nats,
                "spread": option.spread,
                "rivals": rival.predictions(net, layer, change.D, rivals),
            }
        )
    told = {
        "name": case.name,
        "examples": [len(audited), len(others)],
        "cpu_seconds": {"audit": seconds, "all": time.process_time() - started},
        "spearman": agreements(points),
        "points": points,
    }
    common.save(f"audit/{case.name}", {**told, "stamp": common.stamp()})
    whole = told["spearman"]["predicted"]["all"]
    print(f"{case.name}: {whole:.3f} over {len(points)} points, {seconds:.0f} CPU seconds")


@torch.no_grad()
def damages(
    net: Net, audited: Examples, others: Examples
) -> Iterator[tuple[str, Change, tuple[float, float]]]:
    """The true damage of every change, nats for an example: of each half of the others."""
    module, answers = net.module, answers_of(net)
    halves = [others.some(range(i, len(others), 2)).batches(_BATCH) for i in (0, 1)]
    whole = [_answers(net, half) for half in halves]
    for layer, change in inspecting.changes(net, audited, seed=SEED):
        changed = module.get_submodule(layer)
        weight = changed.weight
        kept = weight.detach().clone()
        weight.copy_(matrices.shaped(changed, matrices.matrix(changed) + change.D))
        a, b = (answers.apart(w, _answers(net, h)) for w, h in zip(whole, halves, strict=True))
        weight.copy_(kept)
        yield layer, change, (a, b)


def _answers(net: Net, batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
    return torch.cat([first(net.module(*batch)) for batch in batches]).double()


def agreements(points: Sequence[common.Json]) -> common.Json:
    """Spearman's rank correlations with the true damage, by technique and over all.

    Of the prediction; of the true damage of one half with that of the other; and, where they say
    something of a layer, of rivals: there the prediction's own is over the same points.
    """
    compared = [p for p in points if p["rivals"]]
    found = {
        "predicted": _by_technique(points, lambda p: p["predicted"], lambda p: p["true"]),
        "halves": _by_technique(points, lambda p: p["halves"][0], lambda p: p["halves"][1]),
        "compared": _by_technique(compared, lambda p: p["predicted"], lambda p: p["true"]),
    }
    for name in compared[0]["rivals"] if compared else ():
        found[name] = _by_technique(compared, lambda p, n=name: p["rivals"][n], lambda p: p["true"])
    return found


def _by_technique(
    points: Sequence[common.Json], a: Callable[[common.Json], float], b: Callable[..., float]
) -> dict[str, float]:
    techniques = dict.fromkeys(p["technique"] for p in points)
    parts = {t: [p for p in points if p["technique"] == t] for t in techniques}
    return {
        name: float(spearmanr([a(p) for p in some], [b(p) for p in some]).statistic)
        for name, some in {"all": points, **parts}.items()
    }


def _resnet(name: str, audited: int, others: int) -> Opened:
    sys.path.insert(0, str(common.HERE / "models"))
    folder = common.ASSETS / "vision"
    told = common.RESULTS / "audit" / "cifar.yaml"
    told.parent.mkdir(parents=True, exist_ok=True)
    told.write_text(f"mean: {_MEAN}\nstd: {_STD}\n", encoding="utf-8")

    def subject(part: str, count: int) -> Subject:
        return Subject(
            f"cifar_resnet:{name}",
            weights=folder / f"cifar10-resnets/{name}.safetensors",
            shape=(3, 32, 32),
            preprocess=told,
            data=folder / f"cifar10-images/cifar10_{part}.zip",
            examples=count,
        )

    return _pair(subject("train", audited), subject("test", others))


def _minilm(audited: int, others: int) -> Opened | None:
    folder = os.environ.get("SPRUE_MINILM")
    if folder is None or not Path(folder).is_dir():
        return None
    file = common.ASSETS / "routing/clinc-oos/data_full.json"
    return _pair(
        Subject(folder, data=f"{file}#train", length=32, examples=audited),
        Subject(folder, data=f"{file}#test", length=32, examples=others),
    )


def _base6m(audited: int, others: int) -> Opened:
    net, a, _ = opened(Subject(str(common.BASE), length=128, examples=audited), SEED)
    each = others // len(common.TEXTS)
    parts = []
    for text in common.TEXTS:
        file = common.ASSETS / f"text/{text}/test.txt"
        subject = Subject(str(common.BASE), data=file, length=128, examples=each)
        parts.append(opened(subject, SEED)[1])
    ids = torch.cat([part.inputs[0] for part in parts if part is not None])
    assert a is not None
    return net, a, Examples((ids,), None, "")


def _pair(audited: Subject, others: Subject) -> Opened:
    net, a, _ = opened(audited, SEED)
    _, b, _ = opened(others, SEED + 1)
    assert a is not None
    assert b is not None
    return net, a, b


CASES = (
    Case("resnet20", lambda: _resnet("resnet20", 1024, 512)),
    Case("resnet44", lambda: _resnet("resnet44", 768, 256)),
    Case("minilm", lambda: _minilm(384, 128)),
    Case("base6m", lambda: _base6m(64, 16)),
)

if __name__ == "__main__":
    main()
