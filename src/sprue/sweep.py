"""The verb `sweep`: which ratio of zeros fits which task and model."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sprue import __version__, models
from sprue.compress import DEFAULT_WINDOWS
from sprue.errors import InputError
from sprue.models import Source, Stream, Writer
from sprue.plan import artifact, design, ratio, tasks
from sprue.plan.forecast import Search, forecast
from sprue.plan.job import surveyed
from sprue.plan.ratio import Scan, Share, Trial
from sprue.plan.recipe import Recipe, from_dict
from sprue.plan.room import RESIDENT, batch_of
from sprue.plan.survey import Survey, survey
from sprue.plan.tasks import Task
from sprue.plan.walk import Walk
from sprue.proof import load, machine, quality
from sprue.proof.point import Curve, Point
from sprue.proof.points import Points
from sprue.proof.points import replace as put
from sprue.proof.quality import Sample
from sprue.proof.remembered import Remembered
from sprue.proof.sweep_report import Pick, SweepReport
from sprue.weights import patterns

ROW, PATTERNS = "0..90%", ("unstructured", "N:4")
_REFINED = 2  # points measured between the last that keeps enough and the first that does not
_OTHERS = 4  # of the windows of every other task this part is measured with
_LOGITS = 8 << 20  # logits of one model at a time


def sweep(
    model: str | Path,
    data: Mapping[str, Sequence[str | Path]],
    out: str | Path,
    *,
    sparsity: str = ROW,
    pattern: Sequence[str] = PATTERNS,
    pick: str | None = None,
    keep: float = 0.99,
    windows: int = DEFAULT_WINDOWS,
    context: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SweepReport:
    """Measure what `model` keeps on each task at a row of ratios of zeros.

    Args:
        model: folder in the Hugging Face layout, or a hub name.
        data: task -> one file, whose documents are split into two parts that share none, or two:
            to calibrate on and to measure with.
        out: folder for the points, sweep.html, sweep.json and recipe.yaml; an interrupted or
            narrower sweep of the same model, data and settings goes on in the same folder.
        sparsity: the ratios: "0..90%" in steps of 10 points, "50%", or "30%,50%".
        pattern: of the zeros: "unstructured", "RxC" (blocks), "2:4" (one point), "N:4" (3:4, 2:4
            and 1:4).
        pick: write the recipe for this task at the largest ratio that keeps `keep`.
        keep: share of the quality that must be kept.
        windows: at most so many of each task, to calibrate on and to measure with; a quarter of
            them is what every other task is measured with.
        context: tokens in a window; None: what the model allows, at most 512.
        seed: of the split, the windows and all else that is random.
        progress: whether to show progress on standard error.

    Raises:
        InputError: a model, text or argument that cannot be used, or a folder of another sweep.
        BudgetError: a ratio that cannot be had.
        ResourceError: less memory or disk than the work takes.
    """
    rows = {form: ratio.points(form, ratio.row(sparsity)) for form in dict.fromkeys(pattern)}
    _check(data, rows, pick, keep, windows)
    source = models.open(model)
    texts = tasks.read(data, seed)
    settings = _settings(source, texts, windows, context, seed)
    with Points(Path(out), settings) as points, _interruptible():
        read = [
            tasks.tokenized(source, t, points.folder / tasks.FOLDER, windows, context, seed)
            for t in texts
        ]
        count = len(read) * sum(map(len, rows.values()))
        _announce(source, read[0], count, points.folder, progress)
        with _bar(source, len(read), sum(map(len, rows.values())), progress) as step:
            run = _Run(source, read, points, rows, seed, step)
            curves = run.curves(keep)
        found = SweepReport(
            model=str(model),
            folder=str(out),
            settings=settings,
            tasks={task.name: task.as_dict() for task in read},
            curves=curves,
            keep=keep,
            seed=seed,
            pick=None if pick is None else Pick.of(pick, curves, keep),
            texts={task.name: [str(file) for file in task.files] for task in read},
            machine=machine.stamp("cpu"),
        )
        _write(found, points.folder)
    return found


@dataclass
class _Run:
    """What all points of a sweep share.

    Attributes:
        source: the original.
        tasks: with their windows.
        points: where they are saved.
        rows: pattern as it was asked for -> (pattern, ratio) of every point.
        seed: of the recipes.
        step: called with the steps of work done.
    """

    source: Source
    tasks: Sequence[Task]
    points: Points
    rows: Mapping[str, Sequence[tuple[str, float]]]
    seed: int
    step: Callable[[int], object]
    _scans: dict[str, Scan] = field(default_factory=dict)

    def curves(self, keep: float) -> list[Curve]:
        """For each task and each pattern that was asked for."""
        return [
            self.curve(task, family, row, keep)
            for task in self.tasks
            for family, row in self.rows.items()
        ]

    def curve(
        self, task: Task, family: str, row: Sequence[tuple[str, float]], keep: float
    ) -> Curve:
        """All points of a family of patterns, and what tells more about what keeps `keep`."""
        found = Curve(task.name, family, [self._point(task, family, *place) for place in row])
        if not _stated(row[0][0]):
            return found  # nothing lies between patterns of N:M
        for _ in range(_REFINED):
            more = found.next_ratio(keep)
            if more is None:
                break
            new = self._point(task, family, row[0][0], more)
            found = replace(found, points=sorted([*found.points, new], key=lambda p: p.ratio))
        return found

    def _point(self, task: Task, family: str, pattern: str, share: float) -> Point:
        """Measured, unless an earlier run did."""
        found = self.points.get(task.name, pattern, share)
        if found is None:
            found = self._measure(task, family, pattern, share)
            self.points.put(found)
        else:
            self.step(_steps(self.source) + len(self.tasks))
        return replace(found, family=family)

    def _measure(self, task: Task, family: str, pattern: str, share: float) -> Point:
        """Prune as `compress --recipe` does, read the result back, and compare."""
        scan = self._scan(task)
        zeros = self._zeros(pattern, share, scan)
        recipe = zeros.recipe(self.seed)
        with _scratch(self.points.folder) as made:
            _prune(self.source, task, recipe, scan.survey, made, self.step)
            samples = self._compare(task, load.model(made, "cpu"))
        return Point(
            task.name,
            family,
            pattern,
            share,
            zeros.ratio,
            {name: _share(zeros, name, shape) for name, shape in self._linears.items()},
            zeros.predicted,
            recipe.as_dict(),
            samples,
        )

    def _zeros(self, pattern: str, share: float, scan: Scan) -> Share:
        if not _stated(pattern):
            return ratio.everywhere(pattern, self._linears)
        return ratio.shared(pattern, share, self._linears, scan)

    def _scan(self, task: Task) -> Scan:
        """One survey for all patterns and ratios of a task, saved; those of others are let go."""
        file = self.points.folder / f"{task.name}.survey.safetensors"
        found = self._scans.get(task.name) or Scan.read(file)
        stated = {row[0][0] for row in self.rows.values() if _stated(row[0][0])}
        if found is None or not stated <= set(found.damage):
            forms = stated | set(found.damage if found else ())
            found = self._survey(task, Trial(forms=tuple(sorted(forms))))
            found.save(file)
        self._scans = {task.name: found}
        return found

    def _survey(self, task: Task, trial: Trial) -> Scan:
        ids = surveyed(task.calibration.ids)
        stream = Stream(self.source, ids, batch_of(ids.shape[1]), resident=RESIDENT)
        return Scan.of(survey(stream, seed=self.seed, demands=trial))

    def _compare(self, task: Task, result: Any) -> dict[str, Sample]:
        samples = {}
        for other in self.tasks:
            ids = other.evaluation if other is task else _some(other.evaluation)
            samples[other.name] = quality.compare(
                self._original, result, ids, name=other.name, batch=self._batch
            )
            self.step(1)
        return samples

    @cached_property
    def _linears(self) -> Mapping[str, tuple[int, int]]:
        return design.matrices(self.source).linears

    @cached_property
    def _original(self) -> Remembered:
        ids = torch.cat([task.evaluation for task in self.tasks])
        return Remembered(self.source, ids, batch_of(ids.shape[1]))

    @property
    def _batch(self) -> int:
        """Windows whose logits are in memory at once."""
        context = self.tasks[0].evaluation.shape[1]
        return max(1, min(8, _LOGITS // (context * int(self.source.config.vocab_size))))


def _prune(
    source: Source,
    task: Task,
    recipe: Recipe,
    found: Survey,
    folder: Path,
    step: Callable[[int], object],
) -> None:
    with Writer(folder) as writer:
        walk = Walk(
            source,
            task.calibration.ids,
            recipe,
            writer,
            found,
            exact=True,
            progress=partial(_done, step),
        )
        records = walk.run()
        artifact.finish(writer, source, recipe, records, task.calibration.as_dict())


def _done(step: Callable[[int], object]) -> None:
    step(1)


def _stated(pattern: str) -> bool:
    """Whether a pattern takes any ratio, and not one of its own."""
    return patterns.parse(pattern).sparsity is None


def _share(zeros: Share, name: str, shape: tuple[int, int]) -> float:
    """Of zeros in one linear."""
    chosen = zeros.choices.get(name)
    if chosen is None:
        return 0.0
    return patterns.zeros_of(patterns.parse(chosen.pattern or ""), chosen.sparsity, shape[1])


def _some(ids: Tensor) -> Tensor:
    """What every other task is measured with."""
    return ids[: max(2, len(ids) // _OTHERS)]


def _check(
    data: Mapping[str, object],
    rows: Mapping[str, Sequence[object]],
    pick: str | None,
    keep: float,
    windows: int,
) -> None:
    if pick is not None and pick not in data:
        raise InputError(f"there is no task {pick!r} to pick: known are {', '.join(data)}")
    if not 0 < keep <= 1:
        raise InputError(f"expected a share to keep above 0 and up to 1, got {keep}")
    if windows < 2:
        raise InputError(f"expected 2 windows or more of each task, got {windows}")
    if not rows:
        raise InputError("no pattern given: expected unstructured, N:4, 2:4 or blocks such as 16x1")
    empty = [form for form, row in rows.items() if not row]
    if empty:
        raise InputError(f"the pattern {empty[0]} takes a ratio above 0%: give --sparsity 0..90%")


def _settings(
    source: Source,
    texts: Sequence[tasks.Texts],
    windows: int,
    context: int | None,
    seed: int,
) -> dict[str, Any]:
    """What decides every point of a sweep, and none of what a later command may ask for beside."""
    config = json.dumps(source.raw, sort_keys=True).encode()
    beside = [path.read_bytes() for path in source.companions()]
    return {
        "version": {"sprue": __version__, "torch": torch.__version__},
        "model": source.fingerprint(),
        "config": hashlib.sha256(config).hexdigest(),
        "tokenizer": hashlib.sha256(b"\0".join(beside)).hexdigest(),
        "data": {t.name: {"fingerprint": t.fingerprint, "files": len(t.files)} for t in texts},
        "windows": windows,
        "context": context,
        "seed": seed,
    }


def _write(found: SweepReport, folder: Path) -> None:
    """The page, the figures and, where a task was picked, its recipe."""
    put(folder / "sweep.json", json.dumps(found.as_dict(), indent=1) + "\n")
    put(folder / "sweep.html", found.html())
    if found.pick is not None:
        put(folder / "recipe.yaml", from_dict(dict(found.pick.point.recipe)).to_yaml())


def _announce(source: Source, task: Task, count: int, folder: Path, progress: bool) -> None:
    """What the largest step will take, said and checked before the first."""
    parts, shape = design.matrices(source), task.calibration.ids.shape
    ahead = forecast(
        *(source, parts, shape, source.nbytes), surveyed=True, trellis=False, search=Search()
    )
    if progress:
        print(f"{count} points or more, for each {ahead.line()}", file=sys.stderr)
    ahead.check(folder)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Where a result may stand for as long as it is measured; what a killed run left goes."""
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch / "model"
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("give the same command again, and it goes on from here") from None


def _steps(source: Source) -> int:
    """Steps of the bar that one point takes, but for its comparisons."""
    return source.blocks * len(source.family.groups(source.config)) + 1


@contextmanager
def _bar(
    source: Source, tasks: int, points: int, progress: bool
) -> Iterator[Callable[[int], object]]:
    """Progress with the time left on standard error; silent where that is no terminal."""
    total = tasks * points * (_steps(source) + tasks)
    quiet = not progress or not sys.stderr.isatty()
    with tqdm(total=total, desc="sweep", unit="step", disable=quiet) as bar:
        yield bar.update
