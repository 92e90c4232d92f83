"""The verb behind `compress --keep`: the smallest result that is proven to keep what is asked for.

Sizes are tried and measured on one half of the text that is held for it; the smallest that passes
there is then proven on the other half, which no search has seen. Where that fails, the next larger
one is, each with less of the 5% that the proof may err.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprue import data as texts_of
from sprue import runtime
from sprue.compress import DEFAULT_WINDOWS, bar, carry_out, zeros_line
from sprue.errors import InputError, SprueError
from sprue.models import Writer
from sprue.models.write import refuse_existing
from sprue.plan import calibration
from sprue.plan.calibration import Calibration
from sprue.plan.checkpoint import Checkpoint, key_of
from sprue.plan.demands import Demands
from sprue.plan.goal import Goal
from sprue.plan.job import Job
from sprue.plan.keeping import Keeping
from sprue.plan.search import CLOSE, Curve, smallest
from sprue.plan.survey import Survey
from sprue.proof import figures, intervals, load, quality

_HELD = 0.3  # share of the calibration text that is held for measuring, where no other is given
_MEASURED = 256  # windows of each half, at most
_SPENT = 0.8  # of what the proof may still err, for every look but the last
_LOOKS = 3


@dataclass(frozen=True)
class KeepReport:
    """What came of it.

    Attributes:
        out: the folder.
        artifact: the content of its sprue.json.
        verdict: what was proven, or not; JSON-able.
        trials: every size that was tried; JSON-able.
    """

    out: Path
    artifact: Mapping[str, Any]
    verdict: Mapping[str, Any]
    trials: Sequence[Mapping[str, Any]]

    @property
    def passed(self) -> bool:
        """Whether what was asked for was proven."""
        return bool(self.verdict["passed"])

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        told = ("bytes", "bits_per_weight", "original", "seed", "tensors", "zeros", "fallbacks")
        return {
            "out": str(self.out),
            **{name: self.artifact[name] for name in told},
            "verdict": dict(self.verdict),
            "trials": [dict(trial) for trial in self.trials],
        }

    def table(self) -> str:
        """A few lines for a terminal."""
        before, after = self.artifact["original"]["bytes"], self.artifact["bytes"]
        rows = [
            f"  {trial['bytes']:>14,} bytes  kept at least {100 * trial['kept_at_least']:.2f}%"
            for trial in self.trials
        ]
        return "\n".join(
            [
                *(["tried, on the text of the search:", *rows] if rows else []),
                f"{self.out}: {after:,} bytes of tensors, {100 * after / before:.1f}% of "
                f"{before:,}",
                *zeros_line(self.artifact["zeros"]),
                str(self.verdict["statement"]),
            ]
        )


def compress_to_keep(
    model: str | Path,
    out: str | Path,
    keep: float,
    *,
    data: Sequence[str | Path] = (),
    preset: str | None = None,
    bits: float | None = None,
    size: str | None = None,
    sparsity: float | None = None,
    pattern: str | None = None,
    flops: float | None = None,
    recipe: str | Path | None = None,
    calibrate: Sequence[str | Path] = (),
    seed: int | None = None,
    device: str = "cpu",
    windows: int = DEFAULT_WINDOWS,
    context: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> KeepReport:
    """Write into `out` the smallest `model` that keeps `keep`, or the best that was found.

    Args:
        model, out, preset, bits, size, sparsity, pattern, flops, recipe, calibrate, seed, device,
            windows, context, resume, progress: as for `compress`. With bits, a size, a preset or a
            recipe nothing is searched: that one result is made and measured.
        keep: share of the quality, above 0 and below 1: the original's perplexity over the
            result's, with 95% confidence.
        data: texts to measure with; none: three tenths of the calibration text, which is then not
            calibrated on.

    Raises:
        InputError, BudgetError, ResourceError: as for `compress`; a share to keep out of range.
    """
    if not 0 < keep < 1:
        raise InputError(f"expected a share to keep above 0 and below 1, got {keep:g}")
    demands = Demands(sparsity, pattern, flops)
    goal = replace(Goal.stated(preset, bits, size, recipe, seed, demands), keep=keep)
    job = Job.opened(model, goal, device)
    fixed = any(given is not None for given in (preset, bits, size, recipe))
    texts = job.texts(calibrate, windows, context, 0.0 if data else _HELD)
    halves = _halves(job, texts, data)
    with _Scratch(Path(out), _key(job, texts, halves), resume) as scratch:
        trials = _Trials(job, texts, halves[0], scratch, progress)
        trials.announce()
        if fixed:
            return _settled(trials, Path(out), [trials.made(job.limit)], _joined(halves))
        passed = trials.search()
        return _settled(trials, Path(out), passed, halves[1])


def _key(job: Job, texts: Calibration, halves: Sequence[Mapping[str, Tensor]]) -> str:
    ids = [ids.flatten() for half in halves for ids in half.values()]
    return key_of(job.source, job.goal, torch.cat([texts.ids.flatten(), *ids]), job.device)


@dataclass(frozen=True)
class _Trial:
    """One size that was tried; `loss` is the upper bound on the text of the search."""

    size: int | None
    folder: Path
    nbytes: int
    loss: float

    def told(self) -> dict[str, Any]:
        return {"bytes": self.nbytes, "budget": self.size, "kept_at_least": math.exp(-self.loss)}


@dataclass
class _Trials:
    """Results of different sizes, made when asked for; what was measured outlives a kill."""

    job: Job
    texts: Calibration
    windows: Mapping[str, Tensor]
    scratch: _Scratch
    progress: bool
    done: dict[int | None, _Trial] = field(default_factory=dict)

    def announce(self) -> None:
        ahead = self.job.forecast(self.texts.ids)
        whole = 2 * 4 * self.job.parts.total  # the original and a result, dense where it is not
        ahead = replace(
            ahead,
            peak_bytes=ahead.peak_bytes + whole,
            added_bytes=ahead.added_bytes + whole,
        )
        if self.progress:
            print(f"each size that is tried will take {ahead.line()}", file=sys.stderr)
        ahead.check(self.scratch.folder)

    @cached_property
    def original(self) -> Any:
        return load.model(self.job.source.path, self.job.device)

    @cached_property
    def survey(self) -> Survey | None:
        ids = self.texts.ids
        with (
            Writer(self.scratch.folder / "survey") as writer,
            bar(self.job.measuring, self.progress) as advance,
        ):
            keeping = Keeping(writer, key_of(self.job.source, self.job.goal, ids, self.job.device))
            if not keeping.resumed:
                self.job.rehearse(ids)
            found = self.job.survey(ids, advance, keeping)
            keeping.leave()
        return found

    def search(self) -> list[_Trial]:
        """Those that passed on the text of the search, smallest first; else the best alone."""
        bound = -math.log(self.job.goal.keep or 1.0)
        found = smallest(lambda size: self.made(size).loss, self.curve, bound)
        passed = sorted(m.size for m in found if m.passed)
        best = min(found, key=lambda m: m.loss).size
        return [self.done[size] for size in passed or [best]]

    def made(self, size: int | None) -> _Trial:
        """The result of a size (None: what bits or a preset say), measured."""
        if size not in self.done:
            folder = self.scratch.folder / str(size)
            if not folder.is_dir():
                self._make(size, folder)
            told = json.loads((folder / "sprue.json").read_text(encoding="utf-8"))
            loss = self.scratch.known(size)
            if loss is None:
                loss = self.scratch.note(size, self.worse(folder, self.windows).at_most())
            self.done[size] = _Trial(size, folder, int(told["bytes"]), loss)
            self._say(self.done[size])
        return self.done[size]

    def from_(self, passed: Sequence[_Trial]) -> Iterator[_Trial]:
        """These, then ever larger ones as far as there are any."""
        yield from passed
        size, most = passed[-1].size, self.curve.sizes[-1]
        while size is not None and size < most:
            size = min(round((1 + 2 * CLOSE) * size), most)
            yield self.made(size)

    def samples(self, folder: Path, windows: Mapping[str, Tensor]) -> list[quality.Sample]:
        """Original and result on the same windows, file by file."""
        result = load.model(folder, self.job.device)
        return [
            quality.compare(self.original, result, ids, name=name) for name, ids in windows.items()
        ]

    def worse(self, folder: Path, windows: Mapping[str, Tensor]) -> intervals.Mean:
        """How much less likely the result finds the text, nats per token."""
        return intervals.mean([s.difference for s in self.samples(folder, windows)])

    def _make(self, size: int | None, folder: Path) -> None:
        job = replace(self.job, limit=size)
        plan = job.goal.plan(job.parts, size, self.survey)
        with Writer(folder) as writer, bar(job.packing, self.progress) as advance:
            goal = replace(job.goal, size=str(size))
            key = key_of(job.source, goal, self.texts.ids, job.device)
            checkpoint = Checkpoint(writer, key)
            carry_out(job, plan, self.survey, self.texts, writer, checkpoint, advance)

    @cached_property
    def curve(self) -> Curve:
        """What the solver predicts at every size."""
        assert self.survey is not None  # where there is no preset, there is a survey
        return self.job.curve(self.survey)

    def _say(self, trial: _Trial) -> None:
        if self.progress:
            told = trial.told()
            print(
                f"{told['bytes']:,} bytes: kept at least {100 * told['kept_at_least']:.2f}% on "
                "the text of the search",
                file=sys.stderr,
            )


class _Scratch:
    """A folder beside the result for what is tried, which goes once there is one.

    After a kill it stays: the same command finds its results and what was measured of them there.
    """

    def __init__(self, out: Path, key: str, required: bool) -> None:
        self.out, self.folder = out, out.parent / f".{out.name}.search"
        self._key, self._losses, self._required = key, dict[str, float](), required

    def __enter__(self) -> _Scratch:
        refuse_existing(self.out)
        if self.folder.exists() and not self._mark.is_file():
            raise InputError(f"{self.folder} is in the way and is not sprue's: remove or rename it")
        saved = self._read()
        if self._required and saved.get("key", self._key) != self._key:
            raise InputError(
                f"the unfinished work for {self.out} is of another command: give the same again, "
                "or leave --resume out to begin anew"
            )
        if saved.get("key") == self._key:
            self._losses = dict(saved["losses"])
        elif self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, SprueError):
            shutil.rmtree(self.folder)

    def known(self, size: int | None) -> float | None:
        """What was measured of a size before."""
        return self._losses.get(str(size))

    def note(self, size: int | None, loss: float) -> float:
        """Keep it; returns it."""
        self._losses[str(size)] = loss
        self._write()
        return loss

    def publish(self, trial: _Trial) -> None:
        """The result of a trial becomes the result."""
        trial.folder.rename(self.out)

    @property
    def _mark(self) -> Path:
        return self.folder / "search.json"

    def _read(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found

    def _write(self) -> None:
        temporary = self._mark.with_suffix(".tmp")
        temporary.write_text(json.dumps({"key": self._key, "losses": self._losses}))
        temporary.replace(self._mark)


def _halves(
    job: Job, texts: Calibration, data: Sequence[str | Path]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Windows to search with and windows to prove with, by file; no document is in both."""
    documents = texts_of.read(data) if data else list(texts.held)
    tokenizer, context = calibration.tokenizer(job.source), texts.ids.shape[1]
    halves = texts_of.set_apart(documents, 0.5, job.goal.seed)
    first, second = (_windows(tokenizer, half, context, job) for half in halves)
    return first, second


def _windows(
    tokenizer: Any, documents: Sequence[texts_of.Document], context: int, job: Job
) -> dict[str, Tensor]:
    sources = list(dict.fromkeys(document.source for document in documents))
    each = max(2, _MEASURED // max(1, len(sources)))
    found = {}
    for source in sources:
        own = [document for document in documents if document.source == source]
        ids = texts_of.windows(tokenizer, own, context, each, job.goal.seed)
        if len(ids) < 2:
            raise InputError(
                f"{source} leaves one window of {context} tokens to measure with, and an interval "
                "needs two: give more text, a shorter --context, or texts of their own with --data"
            )
        found[source] = ids.to(job.device)
    return found


def _joined(halves: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Both halves, file by file."""
    names = dict.fromkeys(name for half in halves for name in half)
    return {name: torch.cat([half[name] for half in halves if name in half]) for name in names}


def _settled(
    trials: _Trials, out: Path, passed: Sequence[_Trial], windows: Mapping[str, Tensor]
) -> KeepReport:
    """The first that is proven to keep enough, smallest first; else the last that was looked at."""
    keep, may_err = trials.job.goal.keep or 1.0, 1 - intervals.CONFIDENCE
    looks = 1 if passed[0].size is None or trials.job.limit else _LOOKS
    for look, trial in zip(range(1, looks + 1), trials.from_(passed), strict=False):
        spent = may_err * (_SPENT if look < looks else 1.0)
        samples = trials.samples(trial.folder, windows)
        verdict = quality.judge_at(samples, keep, 1 - spent)
        may_err -= spent
        if verdict.passed:
            break
    found = quality.summarize(samples)
    told = {
        **figures.of_verdict(verdict, found),
        **figures.of_quality(found),
        "kept_at_least": verdict.kept_at_least,
        "data": {"windows": sum(len(ids) for ids in windows.values()), "files": list(windows)},
    }
    runtime.record_verdict(trial.folder, told)
    content = json.loads((trial.folder / "sprue.json").read_text(encoding="utf-8"))
    tried = [t.told() for t in sorted(trials.done.values(), key=lambda t: t.nbytes)]
    trials.scratch.publish(trial)
    return KeepReport(out, content, told, tried)
