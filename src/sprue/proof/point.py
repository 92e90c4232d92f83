"""One point of a sweep: so many zeros in one pattern, for one task, and what was kept on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sprue.proof import knee, quality
from sprue.proof.knee import Knee
from sprue.proof.quality import Quality, Sample

_ESTIMATES = ("kept", "excess", "kl_nats", "top1_agreement")
_ARRAYS = ("original", "result", "kl", "agreement")


@dataclass(frozen=True)
class Point:
    """What was measured.

    Attributes:
        task: whose text the zeros were calibrated on.
        family: the pattern as it was asked for ("unstructured", "N:4").
        pattern: the pattern itself ("unstructured", "2:4").
        ratio: of zeros over all linears, as it was asked for.
        zeros: the same as it came out.
        layers: module name -> its share of zeros, for all linears.
        predicted: KL that the plan foresaw, nats per token; None where it foresaw none.
        recipe: as JSON, what made it.
        samples: task -> what original and result made of its evaluation windows.
    """

    task: str
    family: str
    pattern: str
    ratio: float
    zeros: float
    layers: Mapping[str, float]
    predicted: float | None
    recipe: Mapping[str, Any]
    samples: Mapping[str, Sample]

    @cached_property
    def quality(self) -> Quality:
        """On the task's own evaluation windows."""
        return self.on(self.task)

    def on(self, task: str) -> Quality:
        """On the evaluation windows of any task."""
        return quality.summarize([self.samples[task]])

    def figures(self) -> dict[str, Any]:
        """The figures without the windows; JSON-able."""
        found = {name: self.on(name) for name in self.samples}
        return {
            "pattern": self.pattern,
            "ratio": self.ratio,
            "zeros": self.zeros,
            "predicted_kl_nats": self.predicted,
            "on": {name: _told(q, self.samples[name]) for name, q in found.items()},
            "layers": dict(self.layers),
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything; JSON-able."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        samples = {
            task: {name: getattr(sample, name).tolist() for name in _ARRAYS}
            for task, sample in self.samples.items()
        }
        return {**told, "layers": dict(self.layers), "samples": samples}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Point:
        """The point that `as_dict` gave.

        Raises:
            ValueError, TypeError, KeyError: it did not.
        """
        samples = {
            task: Sample(task, *(np.array(row[name], dtype=np.float64) for name in _ARRAYS))
            for task, row in told["samples"].items()
        }
        return cls(**{**told, "samples": samples})


@dataclass(frozen=True)
class Curve:
    """The points of one task in one family of patterns, fewest zeros first."""

    task: str
    family: str
    points: Sequence[Point]

    @property
    def ratios(self) -> list[float]:
        """Of zeros."""
        return [point.ratio for point in self.points]

    def knee(self, seed: int) -> Knee | None:
        """Where it bends."""
        if not self.points:
            return None
        losses = np.stack([point.samples[self.task].difference for point in self.points])
        return knee.knee(self.ratios, losses, seed)

    def keeps(self, keep: float) -> Point | None:
        """The point of the largest ratio that keeps `keep`, as do all before it; None: no point."""
        count = self._count(keep)
        return self.points[count - 1] if count else None

    def fails(self, keep: float) -> Point | None:
        """The point after it; None: all keep enough."""
        count = self._count(keep)
        return self.points[count] if count < len(self.points) else None

    def next_ratio(self, keep: float) -> float | None:
        """A ratio between both that would tell more; None: there is none."""
        below, above = self.keeps(keep), self.fails(keep)
        if above is None:
            return None
        low = (below.ratio, below.quality.kept_at_least) if below else (0.0, 1.0)
        return knee.between(low, (above.ratio, above.quality.kept_at_least), keep)

    def _count(self, keep: float) -> int:
        bounds = [point.quality.kept_at_least for point in self.points]
        return knee.largest(self.ratios, bounds, keep)

    def figures(self, keep: float, seed: int) -> dict[str, Any]:
        """JSON-able."""
        bend, enough, more = self.knee(seed), self.keeps(keep), self.fails(keep)
        return {
            "task": self.task,
            "pattern": self.family,
            "knee": None if bend is None else asdict(bend),
            "keeps": _brief(enough),
            "fails": _brief(more),
            "points": [point.figures() for point in self.points],
        }


def _brief(point: Point | None) -> dict[str, Any] | None:
    if point is None:
        return None
    q = point.quality
    least = {"kept": q.kept.value, "kept_at_least": q.kept_at_least}
    return {"pattern": point.pattern, "ratio": point.ratio, **least}


def _told(q: Quality, sample: Sample) -> dict[str, Any]:
    estimates = {name: asdict(getattr(q, name)) for name in _ESTIMATES}
    perplexity = {
        "original": q.perplexity_original.value,
        "result": q.perplexity_result.value,
    }
    least = {"kept_at_least": q.kept_at_least, "windows": len(sample.original)}
    return {"perplexity": perplexity, **estimates, **least}
