"""The verb `activations`: a language model in, one out that leaves part of its weights unread."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor
from tqdm import tqdm

from sprue import models
from sprue.errors import BudgetError, InputError
from sprue.models import Source, Stream, Writer
from sprue.plan import calibration, zeros_artifact
from sprue.plan.checkpoint import Checkpoint, interruptible, key_for
from sprue.plan.design import matrices
from sprue.plan.forecast import forecast
from sprue.plan.room import RESIDENT, batch_of
from sprue.plan.zeros import Curves, Level, measure, share_out
from sprue.plan.zeros_walk import ZerosWalk
from sprue.proof import zeros_page

DEFAULT_WINDOWS = 128
_MEASURED = 32  # windows on which the cost of zeros is measured
_STEPS = 4  # of measuring, for each block


@dataclass(frozen=True)
class ActivationsReport:
    """What came of it.

    Attributes:
        out: the folder.
        artifact: the content of its sprue.json.
    """

    out: Path
    artifact: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: every figure that the page shows."""
        kept = ("bytes", "original", "seed", "activations", "tensors", "data", "fallbacks")
        return {"out": str(self.out), **{key: self.artifact[key] for key in kept}}

    def table(self) -> str:
        """A few lines for a terminal."""
        told = self.artifact["activations"]
        before, after = told["flops"]["original"], told["flops"]["result"]
        lines = [
            f"{self.out}: {100 * told['met']:.1f}% of the linears' weights meet a zero on the "
            f"calibration text, {100 * told['target']:g}% were asked for",
            f"operations for a token: {after:,}, {100 * after / before:.1f}% of {before:,}",
            *(f"note: {fallback}" for fallback in self.artifact["fallbacks"]),
            f"next: sprue verify {self.artifact['original']['name']} {self.out} --data FILE",
        ]
        return "\n".join(lines)

    def html(self) -> str:
        """One page: what zeros cost, and where they are."""
        return zeros_page.render(self.artifact)


def activations(
    model: str | Path,
    out: str | Path,
    *,
    zeros: float,
    calibrate: Sequence[str | Path] = (),
    windows: int = DEFAULT_WINDOWS,
    context: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    report: str | Path | None = None,
    progress: bool = True,
) -> ActivationsReport:
    """Write `model` into the new folder `out`, with a threshold on the inputs of every linear.

    Inputs below it count as zero, and at batch 1 the columns of weights that meet them are not
    read (TEAL, Liu et al. 2024, arXiv:2408.14690).

    Args:
        model: folder in the Hugging Face layout, or a hub name.
        out: folder to make.
        zeros: share of the weights of all linears that are to meet a zero, on the calibration text.
        calibrate: texts that the model should stay good at; none: a small embedded text, with a
            SprueWarning.
        windows: at most so many calibration windows.
        context: tokens in a window; None: what the model allows, at most 512.
        seed: of everything that is random.
        device: where blocks run ("cpu", "cuda").
        report: write a page here.
        progress: whether to show progress on standard error.

    Raises:
        InputError: a model, text or argument that cannot be used.
        BudgetError: a share of zeros that cannot be met.
        ResourceError: less memory or disk than the work takes.
    """
    _check(zeros, device, report)
    source = models.open(model)
    with Writer(Path(out)) as writer, interruptible(writer):
        texts = calibration.read(source, calibrate, windows, context, seed)
        ahead = forecast(source, matrices(source), texts.ids.shape, source.nbytes, True, False)
        ahead.announce(writer.out.parent, progress)
        asked = {"activations": zeros, "seed": seed}
        checkpoint = Checkpoint(writer, key_for(source, asked, texts.ids, device))
        if checkpoint.resumed and progress:
            print(checkpoint.line(source.blocks), file=sys.stderr)
        with _bar(source, progress) as advance:
            curves = _curves(source, texts.ids, seed, device, checkpoint, advance)
            shares = {name: level.share for name, level in share_out(curves, zeros).items()}
            walk = ZerosWalk(source, texts.ids, shares, writer, device=device, progress=advance)
            walk.checkpoint = checkpoint
            records = walk.run()
        told = zeros_artifact.finish(writer, source, records, texts.as_dict(), zeros, seed, curves)
    found = ActivationsReport(Path(out), told)
    _write(found, report)
    return found


def _write(found: ActivationsReport, report: str | Path | None) -> None:
    if report is not None:
        Path(report).write_text(found.html(), encoding="utf-8")
        figures = json.dumps(found.as_dict(), indent=2) + "\n"
        Path(report).with_suffix(".json").write_text(figures, encoding="utf-8")


def _check(zeros: float, device: str, report: str | Path | None) -> None:
    if not 0 < zeros < 1:
        raise BudgetError(
            f"a share of zeros must lie above 0% and below 100%, received {100 * zeros:g}%"
        )
    if report is not None:
        path = Path(report)
        if not path.absolute().parent.is_dir() or path.is_dir() or path.suffix == ".json":
            raise InputError(
                f"cannot write {path}: expected the name of an HTML file in a folder that exists"
            )
    models.check_device(device)


def _curves(
    source: Source,
    ids: Tensor,
    seed: int,
    device: str,
    checkpoint: Checkpoint,
    advance: Callable[[], None],
) -> Curves:
    """Measured on evenly spaced windows, so that every text takes part."""
    saved = checkpoint.measured()
    if saved is not None:
        for _ in range(_STEPS * source.blocks):
            advance()
        return {name: [Level(*row) for row in rows] for name, rows in saved.items()}
    some = calibration.spaced(ids, _MEASURED)
    stream = Stream(source, some, batch_of(ids.shape[1]), device, resident=RESIDENT)
    curves = measure(stream, seed, progress=advance)
    checkpoint.note({name: [astuple(level) for level in row] for name, row in curves.items()})
    return curves


@contextmanager
def _bar(source: Source, progress: bool) -> Iterator[Callable[[], None]]:
    """Progress with the time left on standard error; silent where that is no terminal."""
    steps = source.blocks * (_STEPS + len(source.family.groups(source.config)))
    quiet = not progress or not sys.stderr.isatty()
    with tqdm(total=steps, desc="activations", unit="step", disable=quiet) as bar:
        yield partial(_step, bar)


def _step(bar: tqdm[NoReturn]) -> None:
    bar.update()
