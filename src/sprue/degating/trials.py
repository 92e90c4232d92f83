"""The search for a smaller network: how much leaves it, and in which precision it is stored.

Shares of the FLOPs are tried from the largest down, each network in every precision of its engine,
until too little is kept. Where training is allowed, all of the time goes to the smallest share from
which the network can be expected to come back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from sprue.data.examples import Examples
from sprue.degating.bench import Bench, energy_ratio
from sprue.errors import BudgetError, InputError
from sprue.formats.onnx_export import to_onnx
from sprue.models import nets
from sprue.plan import precision, sparing
from sprue.plan.meaning import answers_of
from sprue.plan.workshop import Workshop

SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
_RANGES = 300  # examples that ranges of activations are taken from
_REACH = 0.08  # below what must be kept, from where training is expected to come back
_LOOKS = 6  # at the proof: more cost time, not confidence
_DOUBT = 0.6  # of a bound's distance, a standard error: what the search measured may be wrong by it
_SENSED = 16  # examples that show which layers suffer in 8 bits


@dataclass(frozen=True)
class Trial:
    """One file that was made and measured.

    Attributes:
        file: its name in the workshop.
        share: of the FLOPs of the original.
        precision: that it is stored in.
        spared: layers that stayed in float32.
        tuned: seconds that it was trained.
        parameters: of the network.
        nbytes: of the file, all that belongs to it.
        kept, at_least: of the quality, on the examples of the search.
        latency: over the original's, one example at a time.
        energy: over the original's.
        size: over the original's.
    """

    file: str
    share: float
    precision: str
    spared: int
    tuned: float
    parameters: int
    nbytes: int
    kept: float
    at_least: float
    latency: float
    energy: float
    size: float


@dataclass(frozen=True)
class Limits:
    """What a result may cost, each as a share of the original's; None: whatever it does.

    Attributes:
        latency: of one example.
        size: of all files.
        energy: of an example.
    """

    latency: float | None = None
    size: float | None = None
    energy: float | None = None

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return any(limit is not None for limit in (self.latency, self.size, self.energy))

    def broken(self, latency: float, size: float, energy: float) -> dict[str, tuple[float, float]]:
        """Name -> (measured, allowed) of those that are not met."""
        found = {
            "latency": (latency, self.latency),
            "size": (size, self.size),
            "energy": (energy, self.energy),
        }
        return {k: (a, b) for k, (a, b) in found.items() if b is not None and a > b}

    def excess(self, trial: Trial) -> float:
        """By how much a trial breaks them, the worst; 0 where it meets them all."""
        broken = self.broken(trial.latency, trial.size, trial.energy)
        return max((a / b - 1 for a, b in broken.values()), default=0.0)


# (share, seconds of training) -> the network, and the share that it really has
Make = Callable[[float, float], tuple[nn.Module, float]]


@dataclass
class Search:
    """What is tried on one network.

    Attributes:
        net: the original.
        bench: that files are measured on.
        calibration: examples that ranges are taken from.
        make: networks of a share of the FLOPs, trained for so many seconds.
        workshop: where files and notes go.
        keep: share of the quality that must be kept.
        portable: whether processors without VNNI must compute the same.
        precisions: to try.
        transformer: whether attention is in the network.
        advance: called with a few words before each trial.
        fallbacks: what could not be done as asked, in words.
    """

    net: nets.Net
    bench: Bench
    calibration: Examples = field(repr=False)
    make: Make
    workshop: Workshop
    keep: float
    portable: bool
    precisions: Sequence[str]
    transformer: bool
    advance: Callable[[str], object] = lambda words: None
    fallbacks: list[str] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        noted = self.workshop.noted("trials") or []
        self.trials = [Trial(**told) for told in noted]
        self._done: list[float] = list(self.workshop.noted("shares") or [])
        self._spared = 0

    def run(self, shares: Sequence[float], seconds: float) -> list[Trial]:
        """Try the whole network, then these shares of it, with training for so long in all."""
        self.stage(1.0)
        try:
            if seconds:
                self._trained(sorted(shares, reverse=True), seconds)
            else:
                self._repaired(sorted(shares, reverse=True))
        except BudgetError as error:
            if len(shares) == 1:  # it was asked for
                raise
            self.fallbacks.append(str(error))
        return self.trials

    def _repaired(self, shares: Sequence[float]) -> None:
        for share in shares:
            if not self.stage(share):
                break

    def _trained(self, shares: Sequence[float], seconds: float) -> None:
        """Where repair alone gets to, and from there with training."""
        reached: list[float] = []
        for share in shares:
            self.stage(share, only_fp32=True)
            if self._best(share, 0.0) < self.keep - _REACH:
                break
            reached.append(share)
        self.stage(reached[-1] if reached else shares[0], seconds)

    def stage(self, share: float, seconds: float = 0.0, only_fp32: bool = False) -> bool:
        """Try one share in all precisions; whether it is worth going on below it."""
        mark = share + seconds * 1e3 + (0.5e-6 if only_fp32 else 0)
        if mark not in self._done:
            self._stage(share, seconds, only_fp32)
            self._done.append(mark)
            self.workshop.note("shares", self._done)
        return self._best(share, seconds) >= self.keep

    def _stage(self, share: float, seconds: float, only_fp32: bool) -> None:
        words = f"{100 * share:.4g}% of the FLOPs"
        self.advance(words if share < 1 else "the whole network")
        module, real = (self.net.module, 1.0) if share == 1 else self.make(share, seconds)
        name = name_of(share, seconds)
        source = self._exported(module, name)
        trial = (real, seconds, sum(p.numel() for p in module.parameters()))
        self._try(source, module, precision.FP32, trial, name)
        if only_fp32:
            return
        for kind in self.precisions:
            self.advance(f"{words}, {kind}" if share < 1 else f"the whole network, {kind}")
            self._try(source, module, kind, trial, name)

    def _exported(self, module: nn.Module, name: str) -> precision.Source:
        path = self.workshop.folder / f"{name}.source.onnx"
        check = self.calibration.batches(len(self.net.example[0]))[0]
        to_onnx(module, self.net.example, self.net.inputs, self.net.varying, path, check)
        some = self.calibration.sample(_RANGES, 0)
        arrays = [tuple(x.numpy() for x in batch) for batch in some.batches(1)]
        return precision.Source(path, self.net.inputs, arrays, self.transformer)

    def _try(
        self,
        source: precision.Source,
        module: nn.Module,
        kind: str,
        about: tuple[float, float, int],
        name: str,
    ) -> None:
        """One precision; in 8 bits with more and more layers spared until enough is kept."""
        counts: list[int] = [0]
        if kind == precision.INT8 and self._spared:
            counts = [self._spared]
        ranked: list[str] | None = None
        while counts:
            count = counts.pop(0)
            if count and ranked is None:
                ranked = self._ranked(source, module)
            made = self._made(source, kind, name, (ranked or [])[:count])
            if made is None:
                return
            trial = self._measured(made, kind, count, about)
            if kind != precision.INT8 or trial.kept >= self.keep:
                self._spared = count if kind == precision.INT8 else self._spared
                return
            if trial.kept < self.keep - 0.2:
                return  # no few layers are to blame for that
            if ranked is None:
                ranked = self._ranked(source, module)
            more = [n for n in sparing.ladder(len(ranked)) if n > count]
            counts = more[:1] if about[0] == 1 or count == 0 else []

    def _ranked(self, source: precision.Source, module: nn.Module) -> list[str]:
        size = _SENSED if self.net.varying and 0 in self.net.varying[0] else 1
        batch = self.calibration.batches(size)[0]
        found = sparing.most_sensitive(module, batch, answers_of(self.net), source.path)
        if not found:
            self.fallbacks.append("layers and nodes do not match: none can be spared from 8 bits")
        return found

    def _made(
        self, source: precision.Source, kind: str, name: str, spared: Sequence[str]
    ) -> Path | None:
        ending = precision.ending(self.bench.engine)
        path = self.workshop.folder / f"{name}-{kind}-{len(spared)}{ending}"
        try:
            precision.write(
                self.bench.engine, kind, source, path, portable=self.portable, spared=spared
            )
        except InputError as error:
            if kind == precision.FP32:
                raise
            words = f"{kind}: {error}"
            if words not in self.fallbacks:
                self.fallbacks.append(words)
            return None
        return path

    def _measured(
        self, path: Path, kind: str, spared: int, about: tuple[float, float, int]
    ) -> Trial:
        same = path == self.bench.original
        kept = self.bench.kept(path)
        turns = self.bench.turns(path)
        before, nbytes = precision.bytes_of(self.bench.original), precision.bytes_of(path)
        trial = Trial(
            file=path.name,
            share=about[0],
            precision=kind,
            spared=spared,
            tuned=about[1],
            parameters=about[2],
            nbytes=nbytes,
            kept=kept.kept.value,
            at_least=kept.at_least,
            latency=1.0 if same else turns.ratio.value,
            energy=energy_ratio(self.bench.energies(turns, path)),
            size=nbytes / before,
        )
        self.trials.append(trial)
        self.workshop.note("trials", [asdict(t) for t in self.trials])
        return trial

    def _at(self, share: float, seconds: float) -> list[Trial]:
        return [t for t in self.trials if abs(t.share - share) < 0.02 and t.tuned == seconds]

    def _best(self, share: float, seconds: float) -> float:
        return max((t.kept for t in self._at(share, seconds)), default=0.0)


def name_of(share: float, seconds: float) -> str:
    """What the files of a stage begin with."""
    return f"{round(1e4 * share):05d}-{round(seconds)}"


def chain(trials: Sequence[Trial], keep: float, limits: Limits, looks: int = _LOOKS) -> list[Trial]:
    """Which trials to prove, in this order: the safest first, the best last.

    Each is tested at the full level, and the first that fails ends it: then the last that passed
    holds with the stated confidence, however many were looked at (a fixed sequence of hypotheses:
    Maurer, Hothorn and Lehmacher 1995).

    Args:
        trials: all of them.
        keep: share that must be kept.
        limits: what the result may cost.
        looks: at most so many.
    """
    cut = [t for t in trials if t.latency < 1 or t.size < 1]
    met = [t for t in cut if limits.excess(t) == 0]
    good = [t for t in met if t.kept + _DOUBT * (t.kept - t.at_least) >= keep]
    if not good:
        return sorted(cut, key=lambda t: _distance(t, keep, limits))[:1]
    if limits.any:
        order = sorted(good, key=lambda t: -t.at_least)[:looks]
        return order[:1]
    front = _front(good)
    picks = np.unique(np.linspace(0, len(front) - 1, min(looks, len(front))).round().astype(int))
    return [front[i] for i in picks]


def _distance(trial: Trial, keep: float, limits: Limits) -> float:
    """How far a trial is from what was asked for: quality weighs as it is lost."""
    return max(0.0, keep - trial.kept) * 10 + limits.excess(trial)


def _front(trials: Sequence[Trial]) -> list[Trial]:
    """Those that none beats in both latency and what they surely keep; the safest first."""
    found: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.latency, -t.at_least)):
        if not found or trial.at_least > found[-1].at_least:
            found.append(trial)
    return found[::-1]
