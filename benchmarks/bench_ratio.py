"""Whether zeros that are shared out by predicted damage beat the same ratio in every linear.

For each text: the model pruned at a row of ratios in both ways, calibrated on train.txt, measured
on the same windows of test.txt. Told are the divergence from the original of both, what both keep
and the paired difference of their negative log likelihoods with its 95% interval.

    python benchmarks/bench_ratio.py MODEL --name NAME [--text TEXT ...] [--ratio 0.5 ...]

results/sweep/even-NAME.json gets every line as soon as it is measured.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common  # isort: skip  # before torch, which then takes one thread
import torch
from torch import Tensor

from sprue import data, models
from sprue.models import Source, Stream, Writer
from sprue.plan import artifact, calibration, design, ratio
from sprue.plan.ratio import Scan, Share, Trial
from sprue.plan.survey import survey
from sprue.plan.walk import Walk
from sprue.proof import intervals, load, quality
from sprue.proof.quality import Sample
from sprue.proof.remembered import Remembered

CALIBRATED, MEASURED, CONTEXT, SEED, BATCH = 24, 40, 256, 0, 4
RATIOS = (0.3, 0.5, 0.7, 0.9)
FORM = "unstructured"


@dataclass
class Bench:
    """One model on one text."""

    source: Source
    text: str

    def __post_init__(self) -> None:
        folder = common.ASSETS / "text" / self.text
        given = [folder / "train.txt"]
        self.ids = calibration.read(self.source, given, CALIBRATED, CONTEXT, SEED).ids
        tokenizer = calibration.tokenizer(self.source)
        measured = data.read([folder / "test.txt"])
        self.windows: Tensor = data.windows(tokenizer, measured, CONTEXT, MEASURED, SEED)
        self.original = Remembered(self.source, self.windows, BATCH)
        trial = Trial(forms=(FORM,))
        self.scan = Scan.of(survey(Stream(self.source, self.ids, BATCH), seed=SEED, demands=trial))
        self.shapes = design.matrices(self.source).linears

    def line(self, share: float) -> common.Json:
        """Both ways at one ratio."""
        alike = dict.fromkeys(self.shapes, ratio.choice(FORM, share))
        shared = ratio.shared(FORM, share, self.shapes, self.scan)
        mine, even = self.sample(shared), self.sample(Share(alike, share, None))
        better = intervals.mean([even.result - mine.result]).interval()
        return {
            "text": self.text,
            "ratio": share,
            "predicted_kl": shared.predicted,
            "shared": _told(mine),
            "even": _told(even),
            "even_minus_shared_nll": asdict(better),
        }

    def sample(self, share: Share) -> Sample:
        """What the original and the pruned model make of the windows."""
        recipe = share.recipe(SEED)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            with Writer(folder) as writer:
                found = self.scan.survey
                walk = Walk(self.source, self.ids, recipe, writer, found, exact=True)
                artifact.finish(writer, self.source, recipe, walk.run(), {})
            result: Any = load.model(folder, "cpu")
        return quality.compare(self.original, result, self.windows, name=self.text)


def _told(sample: Sample) -> common.Json:
    q = quality.summarize([sample])
    return {"kl_nats": asdict(q.kl_nats), "kept": asdict(q.kept)}


def show(line: common.Json) -> None:
    """One line."""
    a, b, d = line["shared"], line["even"], line["even_minus_shared_nll"]
    print(
        f"{line['text']:9} {100 * line['ratio']:.0f}%  divergence {a['kl_nats']['value']:.4f} "
        f"(foreseen {line['predicted_kl']:.4f}), even {b['kl_nats']['value']:.4f}; kept "
        f"{100 * a['kept']['value']:.2f}%, even {100 * b['kept']['value']:.2f}%; even is worse by "
        f"{d['value']:.4f} nats ({d['low']:.4f} to {d['high']:.4f})",
        flush=True,
    )


def run(model: Path, name: str, texts: Sequence[str], ratios: Sequence[float]) -> None:
    """All lines, saved one by one."""
    source, lines = models.open(model), []
    settings = {"windows": [CALIBRATED, MEASURED], "context": CONTEXT, "seed": SEED}
    stamp = common.stamp()
    for text in texts:
        bench = Bench(source, text)
        for share in ratios:
            lines.append(bench.line(share))
            show(lines[-1])
            content = {"model": name, "settings": settings, "lines": lines, "stamp": stamp}
            common.save(f"sweep/even-{name}", content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--name", required=True, help="of the model, in the file's name")
    parser.add_argument("--text", nargs="+", choices=common.TEXTS, default=common.TEXTS)
    parser.add_argument("--ratio", nargs="+", type=float, default=RATIOS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    common.require_assets()
    run(args.model, args.name, args.text, args.ratio)


if __name__ == "__main__":
    main()
