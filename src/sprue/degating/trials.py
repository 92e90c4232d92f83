"""The search for a smaller network: how much leaves it, and in which precision it is stored.

Shares of the FLOPs are tried from the largest down, each network in every precision of its engine,
until too little is kept. Where training is allowed, the smallest share from which the network can
be expected to come back is trained; where it did come back, it is cut and trained once more.
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
_FIRST = 0.4  # of the time, to the first training
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
        tuned: seconds that it was trained, in all.
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


@dataclass(frozen=True)
class Stage:
    """A network on its way.

    Attributes:
        share: of the FLOPs of the original.
        seconds: of training, with those of what it is made from.
        base: what it is made from; None: the original.
    """

    share: float
    seconds: float = 0.0
    base: Stage | None = None

    @property
    def name(self) -> str:
        """What its files begin with."""
        return f"{round(1e4 * self.share):05d}-{self.seconds:g}s"

    @property
    def own(self) -> float:
        """Seconds of its own training."""
        return self.seconds - (self.base.seconds if self.base else 0.0)


Make = Callable[[Stage], tuple[nn.Module, float]]  # the network, and the share that it really has


@dataclass
class Search:
    """What is tried on one network.

    Attributes:
        net: the original.
        bench: that files are measured on.
        calibration: examples that ranges are taken from.
        make: the network of a stage.
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
        self._done: list[str] = list(self.workshop.noted("stages") or [])
        self._spared = 0

    def run(self, shares: Sequence[float], seconds: float) -> list[Trial]:
        """Try the whole network, then these shares of it, with training for so long in all."""
        self.stage(Stage(1.0))
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
            if not self.stage(Stage(share)):
                break

    def _trained(self, shares: Sequence[float], seconds: float) -> None:
        """Where repair alone gets to, trained; and where that is enough, the same once more."""
        if len(shares) == 1:
            self.stage(Stage(shares[0]), only_fp32=True)
            self.stage(Stage(shares[0], seconds))
            return
        first = Stage(self._reached(shares, None) or shares[0], _FIRST * seconds)
        enough = self.stage(first)
        lower = [s for s in shares if s < first.share] if enough else []
        share = self._reached(lower, first)
        self.stage(Stage(share or first.share, seconds, first))

    def _reached(self, shares: Sequence[float], base: Stage | None) -> float | None:
        """The smallest share from which training is expected to come back."""
        found = None
        for share in shares:
            tried = Stage(share, base.seconds if base else 0.0, base)
            try:
                self.stage(tried, only_fp32=True)
            except BudgetError as error:
                if found is None and base is None:
                    raise
                self.fallbacks.append(str(error))
                break
            if self._best(tried) < self.keep - _REACH:
                break
            found = share
        return found

    def stage(self, stage: Stage, only_fp32: bool = False) -> bool:
        """Try one in all precisions; whether it is worth going on below it."""
        mark = f"{stage.name} fp32" if only_fp32 else stage.name
        if mark not in self._done:
            self._stage(stage, only_fp32)
            self._done.append(mark)
            self.workshop.note("stages", self._done)
        return self._best(stage) >= self.keep

    def _stage(self, stage: Stage, only_fp32: bool) -> None:
        words = f"{100 * stage.share:.4g}% of the FLOPs" if stage.share < 1 else "the whole network"
        self.advance(words)
        module, real = (self.net.module, 1.0) if stage.share == 1 else self.make(stage)
        source = self._exported(module, stage.name)
        trial = (real, stage.seconds, sum(p.numel() for p in module.parameters()))
        self._try(source, module, precision.FP32, trial, stage.name)
        if only_fp32:
            return
        for kind in self.precisions:
            self.advance(f"{words}, {kind}")
            self._try(source, module, kind, trial, stage.name)

    def _exported(self, module: nn.Module, name: str) -> precision.Source:
        path = self.workshop.folder / f"{name}.source.onnx"
        check = self.calibration.batches(len(self.net.example[0]))[0]
        net = self.net
        to_onnx(module, net.example, net.inputs, net.varying, path, check, folded=True)
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

    def _best(self, stage: Stage) -> float:
        found = [t.kept for t in self.trials if t.file.startswith(f"{stage.name}-")]
        return max(found, default=0.0)


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
