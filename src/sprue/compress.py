"""The verb `compress`: a language model in, a smaller one out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from sprue import models
from sprue.errors import BudgetError
from sprue.models import Source, Stream, Writer
from sprue.plan import artifact, calibration, design
from sprue.plan.checkpoint import Checkpoint, interruptible, key_of
from sprue.plan.demands import Demands
from sprue.plan.forecast import Forecast, forecast
from sprue.plan.goal import Goal
from sprue.plan.recipe import Recipe
from sprue.plan.room import RESIDENT, batch_of
from sprue.plan.survey import Survey, survey
from sprue.plan.walk import Walk

DEFAULT_WINDOWS = 128
_SURVEYED = 32  # windows that the survey runs


@dataclass(frozen=True)
class CompressReport:
    """What came of a compression.

    Attributes:
        out: the folder.
        artifact: the content of its sprue.json.
        forecast: what was said before.
    """

    out: Path
    artifact: Mapping[str, Any]
    forecast: Forecast

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "out": str(self.out),
            **{k: self.artifact[k] for k in ("bytes", "bits_per_weight", "original", "seed")},
            "tensors": self.artifact["tensors"],
            "fallbacks": self.artifact["fallbacks"],
            "forecast": self.forecast.as_dict(),
        }

    def table(self) -> str:
        """A few lines for a terminal."""
        before, after = self.artifact["original"]["bytes"], self.artifact["bytes"]
        bits = self.artifact["bits_per_weight"]
        lines = [
            f"{self.out}: {after:,} bytes of tensors, {100 * after / before:.1f}% of {before:,}",
            f"bits per weight: {bits['linears']:.3f} of the linears, {bits['file']:.3f} of the "
            "file",
            *(f"note: {fallback}" for fallback in self.artifact["fallbacks"]),
            f"next: sprue verify {self.artifact['original']['name']} {self.out} --data FILE",
        ]
        return "\n".join(lines)


def compress(
    model: str | Path,
    out: str | Path,
    *,
    preset: str | None = None,
    bits: float | None = None,
    size: str | None = None,
    recipe: str | Path | None = None,
    calibrate: Sequence[str | Path] = (),
    sparsity: float | None = None,
    pattern: str | None = None,
    flops: float | None = None,
    seed: int | None = None,
    device: str = "cpu",
    windows: int = DEFAULT_WINDOWS,
    context: int | None = None,
    progress: bool = True,
) -> CompressReport:
    """Write a smaller `model` into the new folder `out`.

    Args:
        model: folder in the Hugging Face layout, or a hub name.
        out: folder to make.
        preset: "rtn", "gptq", "svd", "caldera", "wanda", "sparsegpt" or "slim"; None: what the
            solver finds best.
        bits: bits per weight over the linears of the blocks, everything stored counted; 4 where
            neither size nor recipe is given.
        size: of all tensors: "30%" of the original's, or bytes ("1964544", "2MB").
        recipe: YAML that says how each matrix is stored; takes the place of a budget.
        calibrate: texts that the model should stay good at; none: a small embedded text, with a
            SprueWarning.
        sparsity: share of zeros among the weights of the linears, at least.
        pattern: "unstructured", "N:M" (of every M neighbors N stay) or "RxC" (blocks).
        flops: floating-point operations for a token, of linears and head, as a share of the
            original's, at most.
        seed: of everything that is random; None: the recipe's, or 0.
        device: where blocks run ("cpu", "cuda").
        windows: at most so many calibration windows.
        context: tokens in a window; None: what the model allows, at most 512.
        progress: whether to show forecast and progress on standard error.

    Raises:
        InputError: a model, text or argument that cannot be used.
        BudgetError: a budget that cannot be met.
        ResourceError: less memory or disk than the work takes.
    """
    goal = Goal.stated(preset, bits, size, recipe, seed, Demands(sparsity, pattern, flops))
    models.check_device(device)
    source = models.open(model)
    parts, limit = design.matrices(source), goal.limit(source.nbytes)
    goal.check(parts, limit)
    with Writer(Path(out)) as writer, interruptible(writer):
        texts = calibration.read(source, calibrate, windows, context, goal.seed)
        result = limit or source.nbytes
        ahead = forecast(source, parts, texts.ids.shape, result, goal.measures, goal.trellis)
        ahead.announce(writer.out.parent, progress)
        with _bar(source, goal.measures, progress) as advance:
            checkpoint = Checkpoint(writer, key_of(source, goal, texts.ids, device))
            if checkpoint.resumed and progress:
                print(checkpoint.line(source.blocks), file=sys.stderr)
            plan, found = _plan(source, texts.ids, goal, parts, limit, device, checkpoint, advance)
            walk = Walk(
                source,
                texts.ids,
                plan,
                writer,
                found,
                exact=goal.recipe is not None,
                device=device,
                checkpoint=checkpoint,
                progress=advance,
            )
            records = walk.run()
        _check_size(writer.nbytes, limit)
        done = replace(plan, tensors={name: r.choice for name, r in records.items()})
        told = artifact.finish(writer, source, done, records, texts.as_dict())
    return CompressReport(Path(out), told, ahead)


def _plan(
    source: Source,
    ids: Tensor,
    goal: Goal,
    parts: design.Matrices,
    limit: int | None,
    device: str,
    checkpoint: Checkpoint,
    advance: Callable[[], None],
) -> tuple[Recipe, Survey | None]:
    """The recipe, and what was measured for it, unless an earlier run has got them."""
    saved = checkpoint.plan()
    if saved is not None:
        for _ in range(3 * source.blocks if goal.measures else 0):
            advance()
        return saved
    found = _survey(source, ids, goal, device, advance)
    plan = goal.plan(parts, limit, found)
    checkpoint.planned(plan, found)
    return plan, found


def _survey(
    source: Source, ids: Tensor, goal: Goal, device: str, advance: Callable[[], None]
) -> Survey | None:
    """Survey evenly spaced windows, so that every text takes part."""
    if not goal.measures:
        return None
    some = ids[torch.linspace(0, len(ids) - 1, min(len(ids), _SURVEYED)).long()]
    batch = batch_of(ids.shape[1])
    stream = Stream(source, some, batch, device, resident=RESIDENT)
    demands = goal.demands if goal.preset == design.BEST else None
    return survey(stream, seed=goal.seed, demands=demands, progress=lambda _: advance())


def _check_size(taken: int, limit: int | None) -> None:
    if limit is not None and taken > limit:
        raise BudgetError(
            f"the result takes {taken:,} bytes, {taken - limit:,} more than the budget of "
            f"{limit:,}: nothing was kept; give a little more"
        )


@contextmanager
def _bar(source: Source, surveyed: bool, progress: bool) -> Iterator[Callable[[], None]]:
    """Progress with the time left on standard error; silent where that is no terminal."""
    groups = len(source.family.groups(source.config))
    steps = source.blocks * (groups + (3 if surveyed else 0)) + 1
    quiet = not progress or not sys.stderr.isatty()
    with tqdm(total=steps, desc="compress", unit="step", disable=quiet) as bar:
        yield partial(_step, bar)


def _step(bar: tqdm[NoReturn]) -> None:
    bar.update()
