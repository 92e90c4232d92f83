"""The verb `experts`: feed-forward layers as experts, of which a token computes a few."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sprue import models
from sprue.errors import InputError
from sprue.models import Source, Writer
from sprue.outputs import check_writable
from sprue.plan import calibration, outcome, split, student
from sprue.plan import drop as dropping
from sprue.plan.checkpoint import interruptible, key_for
from sprue.plan.convert import Conversion, Layer
from sprue.plan.distill import Distillation, Schedule
from sprue.plan.drop import Dropped, Measuring
from sprue.plan.forecast_experts import at_once, forecast, forecast_drop
from sprue.plan.lesson import HELD, Lesson, Look
from sprue.plan.split import Split
from sprue.proof import experts_page, quality
from sprue.runtime.load import load

DEFAULT_WINDOWS = 128
_RATE, _FASTEST = 5e-4, 1e-3  # learning rate at a width of 256, and at any
_ALL = 1 << 16  # windows that a distillation reads, at most


@dataclass(frozen=True)
class ExpertsReport:
    """What came of a conversion.

    Attributes:
        out: the folder.
        artifact: the content of its sprue.json.
        layers: what came of every feed-forward layer.
        looks: the student over the distillation, the first before it; none without one.
        losses: KL of every step, nats per token.
    """

    out: Path
    artifact: Mapping[str, Any]
    layers: tuple[Layer, ...]
    looks: tuple[Look, ...]
    losses: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: all that the page shows."""
        keys = ("bytes", "original", "seed", "split", "parameters", "feed_forward", "data")
        return {
            "out": str(self.out),
            **{key: self.artifact[key] for key in keys},
            "layers": [asdict(layer) for layer in self.layers],
            "looks": [asdict(look) for look in self.looks],
            "losses": list(self.losses),
        }

    def table(self) -> str:
        """A few lines for a terminal."""
        told, plan = self.artifact, self.artifact["split"]
        counts, share = told["parameters"], told["feed_forward"]["share"]
        before, after = (
            sum(layer.lost[i] for layer in self.layers) / len(self.layers) for i in (0, 1)
        )
        lines = [
            f"{self.out}: {plan['active']} of {plan['experts']} experts compute for a token, "
            f"{100 * share:.1f}% of the feed-forward FLOPs",
            f"parameters: {counts['active']:,} active of {counts['total']:,}",
            f"the layers lose {100 * before:.1f}% of their outputs' energy before the repair, "
            f"{100 * after:.1f}% after it",
        ]
        if self.looks:
            first, last = self.looks[0], self.looks[-1]
            lines += [
                f"kept on text held back: {100 * first.kept:.1f}% before the distillation, "
                f"{100 * last.kept:.1f}% after {last.step} steps"
            ]
        return "\n".join(
            [*lines, f"next: sprue verify {told['original']['name']} {self.out} --data FILE"]
        )

    def html(self) -> str:
        """One page with everything in it: it asks the network for nothing."""
        return experts_page.render(self.as_dict())


def experts(
    model: str | Path,
    out: str | Path,
    plan: Split | None = None,
    *,
    tune: float | None = None,
    steps: int | None = None,
    calibrate: Sequence[str | Path] = (),
    windows: int = DEFAULT_WINDOWS,
    context: int | None = None,
    device: str = "cpu",
    report: str | Path | None = None,
    progress: bool = True,
) -> ExpertsReport:
    """Write `model` with experts in the place of its feed-forward layers into the folder `out`.

    Args:
        model: folder in the Hugging Face layout, or a hub name.
        out: folder to make.
        plan: how many experts, how many active; None: 2 of 8.
        tune: minutes of distillation by the clock; or
        steps: steps of distillation; neither: none.
        calibrate: texts that the model should stay good at; none: a small embedded text, with a
            SprueWarning.
        windows: at most so many calibration windows for the statistics; a distillation reads all.
        context: tokens in a window; None: what the model allows, at most 512.
        device: where the model runs ("cpu", "cuda").
        report: write the page here.
        progress: whether to show forecast and progress on standard error.

    Raises:
        InputError: a model, text or argument that cannot be used.
        ResourceError: less memory or disk than the work takes.
    """
    plan = plan or Split()
    models.check_device(device)
    check_writable(report)
    source = models.open(model)
    schedule = _schedule(tune, steps, int(source.config.hidden_size))
    split.check(source, plan)
    with Writer(Path(out)) as writer, interruptible(writer):
        texts = _texts(source, calibrate, windows, context, plan.seed, schedule)
        read = texts.statistics
        forecast(source, read.ids.shape, schedule).announce(writer.out.parent, progress)
        asked = {"split": plan.as_dict(), "schedule": schedule and asdict(schedule)}
        state = writer.resume(_key(source, asked, read, device)) or {}
        layers = _converted(source, read.ids, plan, writer, state, device, progress)
        if schedule is None:
            looks, losses, shards = [], [], student.converted(source, layers, writer)
        else:
            lesson, taught = _lesson(source, layers, writer, schedule, texts, plan, device)
            with _bar("distillation", schedule, progress) as advance:
                lesson.progress = advance
                looks = lesson.run(state)
            losses, shards = lesson.work.losses, student.taught(source, layers, taught)
        for name, tensors in shards:
            writer.block(name, tensors)
        told = outcome.finish(writer, source, plan, layers, read.as_dict(), looks, schedule)
    found = ExpertsReport(Path(out), told, tuple(layers), tuple(looks), tuple(losses))
    if report is not None:
        Path(report).write_text(found.html(), encoding="utf-8")
    return found


@dataclass(frozen=True)
class DropReport:
    """What came of dropping experts.

    Attributes:
        out: the folder.
        artifact: the content of its sprue.json.
        blocks: what came of every block that has experts.
    """

    out: Path
    artifact: Mapping[str, Any]
    blocks: tuple[Dropped, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        keys = ("bytes", "original", "seed", "drop", "data")
        return {
            "out": str(self.out),
            **{key: self.artifact[key] for key in keys},
            "layers": [asdict(block) for block in self.blocks],
        }

    def table(self) -> str:
        """A few lines for a terminal."""
        told = self.artifact
        before, after = told["original"]["bytes"], told["bytes"]
        return (
            f"{self.out}: {told['drop']['kept']} of {told['drop']['experts']} experts stay in "
            f"{len(self.blocks)} blocks\n"
            f"{after:,} bytes of tensors, {100 * after / before:.1f}% of {before:,}\n"
            f"next: sprue verify {told['original']['name']} {self.out} --data FILE"
        )


def drop(
    model: str | Path,
    out: str | Path,
    share: float,
    *,
    criterion: str = "reap",
    calibrate: Sequence[str | Path] = (),
    windows: int = DEFAULT_WINDOWS,
    context: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> DropReport:
    """Write `model`, which has experts, without `share` of them into the folder `out`.

    The same number goes in every block: those whose outputs, weighted by the router, are smallest
    on the calibration text. The result is an ordinary model that needs no sprue to be loaded.

    Args:
        model: folder in the Hugging Face layout, or a hub name.
        out: folder to make.
        share: of the experts, above 0 and below 1.
        criterion: "reap", or "random" for comparison.
        calibrate, windows, context, device, progress: as for `experts`.
        seed: of the calibration sample, and of the random criterion.

    Raises:
        InputError: a model, text or argument that cannot be used.
        ResourceError: less memory or disk than the work takes.
    """
    models.check_device(device)
    source = models.open(model, models.MIXTURES)
    stay = dropping.count_kept(source, share)
    with Writer(Path(out)) as writer, interruptible(writer):
        texts = calibration.read(source, calibrate, windows, context, seed)
        forecast_drop(source, texts.ids.shape).announce(writer.out.parent, progress)
        told = {"stay": stay, "criterion": criterion, "seed": seed}
        state = writer.resume(_key(source, told, texts, device))
        with _bar("experts", source.blocks, progress) as advance:
            work = Measuring(source, texts.ids, stay, writer, criterion, seed, device)
            work.progress = lambda: advance(1)
            found = work.run(state)
        dropping.write(writer, source, found)
        made = dropping.finish(writer, source, found, share, seed, texts.as_dict())
    return DropReport(Path(out), made, tuple(found))


@dataclass(frozen=True)
class _Texts:
    """Windows of the calibration text.

    Attributes:
        statistics: for groups, router and repair.
        learned: for the distillation; none without one.
        held: to measure with, in neither of the two.
    """

    statistics: calibration.Calibration
    learned: Tensor
    held: Tensor


def _texts(
    source: Source,
    paths: Sequence[str | Path],
    windows: int,
    context: int | None,
    seed: int,
    schedule: Schedule | None,
) -> _Texts:
    """Those for a distillation are all that there are; those for statistics are some of them."""
    if schedule is None:
        found = calibration.read(source, paths, windows, context, seed)
        return _Texts(found, found.ids[:0], found.ids[:0])
    every = calibration.read(source, paths, _ALL, context, seed)
    learned, held = _split_windows(every.ids)
    some = calibration.spaced(learned, windows)
    return _Texts(replace(every, ids=some), learned, held)


def _converted(
    source: Source,
    ids: Tensor,
    plan: Split,
    writer: Writer,
    state: dict[str, Any],
    device: str,
    progress: bool,
) -> list[Layer]:
    """Every block converted, and waiting in the writer."""
    with _bar("experts", source.blocks, progress) as advance:
        work = Conversion(source, ids, plan, writer, device, lambda: advance(1))
        layers = work.run(state)
    state |= work.state()
    return layers


def _lesson(
    source: Source,
    layers: Sequence[Layer],
    writer: Writer,
    schedule: Schedule,
    texts: _Texts,
    plan: Split,
    device: str,
) -> tuple[Lesson, Any]:
    """A distillation that is ready to run, and its student."""
    teacher = load(source.path, device=device, dtype=torch.float32)
    taught = student.student_of(teacher, source, layers, writer)
    count, held = at_once(source, texts.held.shape[1])[0], texts.held.to(device)
    parameters = student.trained(taught, layers, "all")
    work = Distillation(
        lambda some: teacher(some.to(device), use_cache=False).logits,
        lambda some: taught(some.to(device), use_cache=False).logits,
        parameters,
        student.Windows(texts.learned, plan.seed, schedule.tokens, count),
        schedule,
        student.paces(parameters, layers),
    )

    def measure() -> tuple[float, float]:
        sample = quality.compare(teacher, taught, held, batch=min(8, count))
        return math.exp(-float(sample.difference.mean())), float(sample.kl.mean())

    before = {"layers": [asdict(layer) for layer in layers], "waiting": {}}
    return Lesson(work, measure, writer, before), taught


def _split_windows(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Windows to learn from, and evenly spaced ones to measure with."""
    if len(ids) < 2:
        raise InputError(
            "the calibration text has one window only: a distillation needs some to learn from and "
            "some to measure with. Give more text, or a smaller --context"
        )
    stride = max(2, len(ids) // HELD)
    held = torch.zeros(len(ids), dtype=torch.bool)
    held[stride // 2 :: stride] = True
    return ids[~held], ids[held]


def _schedule(tune: float | None, steps: int | None, width: int) -> Schedule | None:
    """The rate falls as the width grows (Yang et al. 2022, arXiv:2203.03466, table 8)."""
    if tune is None and steps is None:
        return None
    seconds = None if tune is None else 60 * tune
    return Schedule(steps=steps, seconds=seconds, rate=min(_FASTEST, _RATE * 256 / width))


def _key(
    source: Source, asked: Mapping[str, Any], texts: calibration.Calibration, device: str
) -> str:
    """A name for everything that decides the bytes of a result."""
    told = {"command": "experts", "asked": dict(asked), "data": texts.as_dict()}
    return key_for(source, told, texts.ids, device)


@contextmanager
def _bar(what: str, total: int | Schedule, progress: bool) -> Iterator[Callable[[float], object]]:
    """Progress with the time left on standard error; silent where that is no terminal.

    A schedule advances by shares of it, blocks one by one.
    """
    quiet = not progress or not sys.stderr.isatty()
    if not isinstance(total, Schedule):
        with tqdm(total=total, desc=what, unit="block", disable=quiet) as bar:
            yield bar.update
        return
    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=1.0, desc=what, bar_format=form, disable=quiet) as bar:
        yield bar.update
