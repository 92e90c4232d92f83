"""Trials of a search, and which of them are proven, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LOOKS = 6  # at the proof: more cost time, not confidence
_DOUBT = 0.6  # of a bound's distance, a standard error: what the search measured may be wrong by it


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
        hard: whether HardSwish stands in the place of its SiLU.
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
    hard: bool = False


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


def may_keep(trial: Trial, keep: float) -> bool:
    """Whether a proof may find that it keeps enough: what the search measured may be wrong."""
    return trial.kept + _DOUBT * (trial.kept - trial.at_least) >= keep


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
    good = [t for t in met if may_keep(t, keep)]
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
