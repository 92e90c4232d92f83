"""Where a curve of quality over zeros bends, and how far along it enough is kept.

The knee is Kneedle's (Satopää, Albrecht, Irwin and Raghavan 2011, "Finding a kneedle in a
haystack", section III): both axes are scaled to 0 .. 1 over what was measured, and the knee is the
point farthest above the chord from the first point to the last. From there on, a further share of
zeros costs more quality than it does on average over the curve. Quality is the share that is kept,
which has both ends in 0 .. 1: the perplexity itself grows without bound, and its knee with the last
point. The knee depends on how far was measured all the same, and is said with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000  # resamples of the windows
_FEWEST = 3  # points of a curve that can bend
_STEP = 0.005  # ratios between measured ones are multiples of it
_STRAIGHT = 1e-9  # above the chord: no more than rounding
_NARROW = 0.01  # between two ratios that are not told apart further

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Knee:
    """A bend.

    Attributes:
        ratio: of zeros, one of those measured.
        low, high: where it lies in 95% of resamples of the windows.
    """

    ratio: float
    low: float
    high: float


def knee(ratios: Sequence[float], losses: F64, seed: int) -> Knee | None:
    """The knee of a curve that begins with no zeros and nothing lost.

    Args:
        ratios: rising, above 0, [points].
        losses: nll of the result minus that of the original, nats per token, [points, windows];
            all points on the same windows.
        seed: of the resamples.

    Returns:
        None for fewer than two points, or where no point lies above the chord.
    """
    if len(ratios) + 1 < _FEWEST:
        return None
    x = np.array([0.0, *ratios])
    found = _farthest(x, np.exp(-losses.mean(1))[None])[0]
    if found == 0:
        return None
    windows = losses.shape[1]
    draws = np.random.default_rng(seed).multinomial(windows, np.full(windows, 1 / windows), DRAWS)
    places = x[_farthest(x, np.exp(-(draws @ losses.T) / windows))]
    low, high = np.quantile(places, [0.025, 0.975], method="nearest")
    return Knee(float(x[found]), float(low), float(high))


def largest(ratios: Sequence[float], bounds: Sequence[float], keep: float) -> int:
    """How many of the points, from the fewest zeros on, keep at least `keep`.

    Points are tested in a fixed order and the first that fails ends it, so that all of those before
    it hold with the confidence of one (fixed-sequence testing: Maurer, Hothorn and Lehmacher 1995).

    Args:
        ratios: rising, [points].
        bounds: lower bounds of what is kept, [points].
        keep: the share asked for.
    """
    for i, (_, bound) in enumerate(zip(ratios, bounds, strict=True)):
        if bound < keep:
            return i
    return len(ratios)


def between(low: tuple[float, float], high: tuple[float, float], keep: float) -> float | None:
    """The ratio to measure next, between one that keeps enough and one that does not.

    Where the straight line between both losses meets the margin: the curve bends upwards, so that
    this rather lies below the ratio sought than above it.

    Args:
        low, high: (ratio, lower bound of what is kept) of both; high fails.
        keep: the share asked for.

    Returns:
        None where both are too close to be told apart.
    """
    if high[0] - low[0] <= _NARROW + 1e-9:
        return None
    a, b, aim = (-np.log(max(bound, 1e-300)) for bound in (low[1], high[1], keep))
    along = min(max((aim - a) / (b - a), 0.1), 0.9)
    found = low[0] + float(along) * (high[0] - low[0])
    return round(round(found / _STEP) * _STEP, 9)


def _farthest(x: F64, kept: F64) -> NDArray[np.int64]:
    """The point farthest above the chord, for each row of `kept` [rows, points but the first].

    0 where none lies above it.
    """
    y = np.concatenate([np.ones((len(kept), 1)), kept], axis=1)
    fallen = y[:, :1] - y[:, -1:]
    scaled = (y - y[:, -1:]) / np.where(fallen > 0, fallen, np.inf)
    above = scaled - (1 - x / x[-1])
    bent = (fallen[:, 0] > 0) & (above.max(1) > _STRAIGHT)
    return np.asarray(np.where(bent, above.argmax(1), 0))
