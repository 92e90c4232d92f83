"""The verb `compress`: a language model in, a smaller one out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor
from tqdm import tqdm

from sprue.errors import BudgetError
from sprue.models import Writer
from sprue.plan import artifact
from sprue.plan.calibration import Calibration
from sprue.plan.checkpoint import Checkpoint, interruptible, key_of
from sprue.plan.demands import Demands
from sprue.plan.forecast import Forecast
from sprue.plan.goal import Goal
from sprue.plan.job import Job
from sprue.plan.recipe import Recipe
from sprue.plan.survey import Survey
from sprue.plan.walk import Walk

DEFAULT_WINDOWS = 128
_TOLD = ("bytes", "bits_per_weight", "original", "seed", "zeros", "tensors", "fallbacks")


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
            **{
                k: self.artifact[k]
                for k in ("bytes", "bits_per_weight", "original", "seed", "zeros")
            },
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
            *zeros_line(self.artifact["zeros"]),
            *(f"note: {fallback}" for fallback in self.artifact["fallbacks"]),
            f"next: sprue verify {self.artifact['original']['name']} {self.out} --data FILE",
        ]
        return "\n".join(lines)


def zeros_line(zeros: Mapping[str, float]) -> list[str]:
    """What a terminal is told of zeros; nothing where there are none."""
    if not zeros["share"]:
        return []
    return [
        f"zeros: {100 * zeros['share']:.1f}% of the linears' weights; their FLOPs: "
        f"{100 * zeros['flops']:.1f}% of dense, factors included"
    ]


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
    resume: bool = False,
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
        resume: go on where this command was stopped, and refuse what another command left; else
            that is replaced.
        progress: whether to show forecast and progress on standard error.

    Raises:
        InputError: a model, text or argument that cannot be used.
        BudgetError: a budget that cannot be met.
        ResourceError: less memory or disk than the work takes.
    """
    goal = Goal.stated(preset, bits, size, recipe, seed, Demands(sparsity, pattern, flops))
    job = Job.opened(model, goal, device)
    with Writer(Path(out)) as writer, interruptible(writer):
        texts = job.texts(calibrate, windows, context)
        ahead = job.forecast(texts.ids)
        ahead.announce(writer.out.parent, progress)
        with bar(job.steps, progress) as advance:
            checkpoint = Checkpoint(writer, key_of(job.source, goal, texts.ids, device), resume)
            if checkpoint.resumed and progress:
                print(checkpoint.line(job.source.blocks), file=sys.stderr)
            plan, found = _plan(job, texts.ids, checkpoint, advance)
            told = carry_out(job, plan, found, texts, writer, checkpoint, advance)
    return CompressReport(Path(out), told, ahead)


def carry_out(
    job: Job,
    plan: Recipe,
    found: Survey | None,
    texts: Calibration,
    writer: Writer,
    checkpoint: Checkpoint | None,
    advance: Callable[[], None],
) -> dict[str, Any]:
    """Write the artifact of a recipe, whereupon its folder appears; the content of sprue.json.

    Args:
        job: the model.
        plan: what to do to it.
        found: what was measured, where the recipe weighs by it.
        texts: to calibrate on.
        writer: where it goes.
        checkpoint: where an earlier run stopped, if it can be resumed.
        advance: called at every step.

    Raises:
        BudgetError: it came out larger than the job allows.
    """
    walk = Walk(
        job.source,
        texts.ids,
        plan,
        writer,
        found,
        exact=job.goal.recipe is not None,
        device=job.device,
        checkpoint=checkpoint,
        progress=advance,
    )
    records = walk.run()
    _check_size(writer.nbytes, job.limit)
    done = replace(plan, tensors={name: r.choice for name, r in records.items()})
    return artifact.finish(writer, job.source, done, records, texts.as_dict())


def _plan(
    job: Job, ids: Tensor, checkpoint: Checkpoint, advance: Callable[[], None]
) -> tuple[Recipe, Survey | None]:
    """The recipe, and what was measured for it, unless an earlier run has got them."""
    saved = checkpoint.plan()
    if saved is not None:
        for _ in range(job.measuring):
            advance()
        return saved
    job.rehearse(ids)
    plan, found = job.plan(ids, advance, checkpoint)
    checkpoint.planned(plan, found)
    return plan, found


def _check_size(taken: int, limit: int | None) -> None:
    if limit is not None and taken > limit:
        raise BudgetError(
            f"the result takes {taken:,} bytes, {taken - limit:,} more than the budget of "
            f"{limit:,}: nothing was kept; give a little more"
        )


@contextmanager
def bar(total: int, progress: bool, what: str = "compress") -> Iterator[Callable[[], None]]:
    """Progress with the time left on standard error; silent where that is no terminal."""
    quiet = not progress or not sys.stderr.isatty()
    with tqdm(total=total, desc=what, unit="step", disable=quiet) as shown:
        yield partial(_step, shown)


def _step(shown: tqdm[NoReturn]) -> None:
    shown.update()
