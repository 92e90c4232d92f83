"""The search for a smaller network: how much leaves it, and in which precision it is stored.

Shares of the FLOPs are tried from the largest down, each network in every precision of its engine,
until too little is kept. Where training is allowed, the smallest share from which the network can
be expected to come back is trained; where it did come back, it is cut and trained once more.
Activations that cost engines much are replaced first, if that keeps enough; and where 8 bits are
good and fast enough but too large, weights are stored in fewer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from torch import nn

from sprue.data.examples import Examples
from sprue.degating.bench import Bench, energy_ratio
from sprue.degating.picks import Limits, Trial, may_keep
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
_SENSED = 16  # examples that show which layers suffer in 8 bits
_FASTER = 0.95  # of the latency, from where other activations are worth what they lose
_COARSER = 2  # networks of which weights are stored in fewer bits, at most
_AGAIN = 3  # times that one is made, until it is as small as it has to be
_MORE, _TEXT = 1.02, 256  # of what is too much, and bytes: how much text comes along is foreseen


@dataclass(frozen=True)
class Stage:
    """A network on its way.

    Attributes:
        share: of the FLOPs of the original.
        seconds: of training, with those of what it is made from.
        base: what it is made from; None: the original.
        hard: whether HardSwish stands in the place of its SiLU.
        saved: bytes that coarser weights save of it.
    """

    share: float
    seconds: float = 0.0
    base: Stage | None = None
    hard: bool = False
    saved: int = 0

    @property
    def name(self) -> str:
        """What its files begin with."""
        kind = ("h" if self.hard else "") + (f"c{self.saved}-" if self.saved else "")
        return f"{kind}{round(1e4 * self.share):05d}-{self.seconds:g}s"

    @property
    def own(self) -> float:
        """Seconds of its own training."""
        return self.seconds - (self.base.seconds if self.base else 0.0)


@dataclass(frozen=True)
class _About:
    """What files are made of: as `Trial` and `Stage` say."""

    name: str
    share: float
    seconds: float
    parameters: int
    hard: bool


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
        limits: of what a result may cost.
        hard: whether the network has SiLU that may be replaced.
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
    limits: Limits = field(default_factory=Limits)
    hard: bool = False
    advance: Callable[[str], object] = lambda words: None
    fallbacks: list[str] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        noted = self.workshop.noted("trials") or []
        self.trials = [Trial(**told) for told in noted]
        self._done: list[str] = list(self.workshop.noted("stages") or [])
        good = [t for t in self.trials if t.precision == precision.INT8 and t.kept >= self.keep]
        self._spared = good[-1].spared if good else 0
        self._stages: list[Stage] = []

    def run(self, shares: Sequence[float], seconds: float) -> list[Trial]:
        """Try the whole network, then these shares of it, with training for so long in all."""
        self.stage(Stage(1.0))
        base = self._hardened(bool(seconds)) if self.hard else None
        try:
            if seconds:
                self._trained(sorted(shares, reverse=True), seconds, base)
            else:
                self._repaired(sorted(shares, reverse=True), base)
        except BudgetError as error:
            if len(shares) == 1:  # it was asked for
                raise
            self.fallbacks.append(str(error))
        if self.limits.size is not None and precision.packed(self.bench.engine, self.transformer):
            self._coarser(self.limits.size)
        return self.trials

    def _hardened(self, trained: bool) -> Stage | None:
        """The network with HardSwish in the place of SiLU, where it is worth going on with."""
        stage = Stage(1.0, hard=True)
        self.stage(stage)
        enough = self.keep - (_REACH if trained else 0.0)
        fastest = [
            min((t.latency for t in self._trials(s)), default=1.0) for s in (stage, Stage(1.0))
        ]
        worth = self._best(stage) >= enough and fastest[0] < _FASTER * fastest[1]
        return stage if worth else None

    def _repaired(self, shares: Sequence[float], base: Stage | None) -> None:
        for share in shares:
            if not self.stage(_after(base, share)):
                break

    def _trained(self, shares: Sequence[float], seconds: float, base: Stage | None) -> None:
        """Where repair alone gets to, trained; and where that is enough, the same once more."""
        if len(shares) == 1:
            self.stage(_after(base, shares[0]), (precision.FP32,))
            self.stage(_after(base, shares[0], seconds))
            return
        share = self._reached(shares, base, needed=base is None)
        first = _after(base, share or (base.share if base else shares[0]), _FIRST * seconds)
        enough = self.stage(first)
        lower = [s for s in shares if s < first.share] if enough else []
        share = self._reached(lower, first)
        self.stage(_after(first, share or first.share, seconds))

    def _coarser(self, most: float) -> None:
        """What is good and fast enough in 8 bits, with weights in fewer until it fits."""
        limits = replace(self.limits, size=None)
        large = [
            t
            for t in self.trials
            if t.precision == precision.INT8
            and t.size > most
            and limits.excess(t) == 0
            and may_keep(t, self.keep)
        ]
        made = 0
        for trial in sorted(large, key=lambda t: -t.at_least):
            stage = next(s for s in self._stages if trial in self._trials(s))
            try:
                self._smaller(stage, trial, most)
                made += 1
            except BudgetError as error:
                self.fallbacks.append(f"{stage.share:.4g} of the FLOPs: {error}")
            if made == _COARSER:
                break

    def _smaller(self, base: Stage, trial: Trial, most: float) -> None:
        saved = 0
        for _ in range(_AGAIN):
            saved += math.ceil(_MORE * trial.nbytes * (1 - most / trial.size)) + _TEXT
            stage = replace(base, base=base, saved=saved)
            self._spared = trial.spared
            self.stage(stage, (precision.PACKED,))
            made = self._trials(stage)
            if not made or made[-1].size <= most:
                break
            trial = made[-1]

    def _reached(
        self, shares: Sequence[float], base: Stage | None, needed: bool = False
    ) -> float | None:
        """The smallest share from which training is expected to come back."""
        found = None
        for share in shares:
            tried = _after(base, share, base.seconds if base else 0.0)
            try:
                self.stage(tried, (precision.FP32,))
            except BudgetError as error:
                if found is None and needed:
                    raise
                self.fallbacks.append(str(error))
                break
            if self._best(tried) < self.keep - _REACH:
                break
            found = share
        return found

    def stage(self, stage: Stage, kinds: tuple[str, ...] | None = None) -> bool:
        """Try one, in all precisions or in these; whether it is worth going on below it."""
        self._stages.append(stage)
        mark = " ".join((stage.name, *(kinds or ())))
        if mark not in self._done:
            self._stage(stage, (precision.FP32, *self.precisions) if kinds is None else kinds)
            self._done.append(mark)
            self.workshop.note("stages", self._done)
        return self._best(stage) >= self.keep

    def _stage(self, stage: Stage, kinds: Sequence[str]) -> None:
        words = f"{100 * stage.share:.4g}% of the FLOPs" if stage.share < 1 else "the whole network"
        words += " with HardSwish" if stage.hard else ""
        self.advance(words)
        module, real = (self.net.module, 1.0) if stage == Stage(1.0) else self.make(stage)
        source = self._exported(module, stage.name)
        parameters = sum(p.numel() for p in module.parameters())
        about = _About(stage.name, real, stage.seconds, parameters, stage.hard)
        for kind in kinds:
            if kind != precision.FP32:
                self.advance(f"{words}, {kind}")
            self._try(source, module, kind, about)

    def _exported(self, module: nn.Module, name: str) -> precision.Source:
        path = self.workshop.folder / f"{name}.source.onnx"
        check = self.calibration.batches(len(self.net.example[0]))[0]
        net = self.net
        to_onnx(module, net.example, net.inputs, net.varying, path, check, folded=True)
        some = self.calibration.sample(_RANGES, 0)
        arrays = [tuple(x.numpy() for x in batch) for batch in some.batches(1)]
        return precision.Source(path, self.net.inputs, arrays, self.transformer)

    def _try(self, source: precision.Source, module: nn.Module, kind: str, about: _About) -> None:
        """One precision; in 8 bits with more and more layers spared until enough is kept."""
        counts: list[int] = [0]
        if kind in (precision.INT8, precision.PACKED) and self._spared:
            counts = [self._spared]
        ranked: list[str] | None = None
        while counts:
            count = counts.pop(0)
            if count and ranked is None:
                ranked = self._ranked(source, module)
            made = self._made(source, kind, about.name, (ranked or [])[:count])
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
            counts = more[:1] if about.share == 1 or count == 0 else []

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

    def _measured(self, path: Path, kind: str, spared: int, about: _About) -> Trial:
        same = path == self.bench.original
        kept = self.bench.kept(path)
        turns = self.bench.turns(path)
        before, nbytes = precision.bytes_of(self.bench.original), precision.bytes_of(path)
        trial = Trial(
            file=path.name,
            share=about.share,
            precision=kind,
            spared=spared,
            tuned=about.seconds,
            parameters=about.parameters,
            nbytes=nbytes,
            kept=kept.kept.value,
            at_least=kept.at_least,
            latency=1.0 if same else turns.ratio.value,
            energy=energy_ratio(self.bench.energies(turns, path)),
            size=nbytes / before,
            hard=about.hard,
        )
        self.trials.append(trial)
        self.workshop.note("trials", [asdict(t) for t in self.trials])
        return trial

    def _trials(self, stage: Stage) -> list[Trial]:
        return [t for t in self.trials if t.file.startswith(f"{stage.name}-")]

    def _best(self, stage: Stage) -> float:
        return max((t.kept for t in self._trials(stage)), default=0.0)


def _after(base: Stage | None, share: float, seconds: float = 0.0) -> Stage:
    """What is made from a stage."""
    return Stage(share, seconds, base, base is not None and base.hard)
