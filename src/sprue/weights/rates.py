"""How many bits each column of a matrix deserves: reverse water-filling with error feedback.

With feedback through the factor U of H^-1 = U^T U, the error of column j costs D_j = 1 / U_jj^2
for each unit of its variance, and costs nothing elsewhere. At rate R a good code leaves
variance * 4^-R, so the sum of costs is least when every coded column costs the same, the water
level (Cover and Thomas 2006, theorem 10.3.3; Savkin et al. 2025 for the waterfilling of quantized
layers). What is fed back makes a column wider than it was: errors of level λ in the columns before
add λ (sum_(i<=j) U_ij^2 - U_jj^2) to its variance, which counts at low rates and steep spectra.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNIT = 8  # rates are multiples of 1/8 bit
LEAST, MOST = 4, 48  # a coded column takes from 1/2 to 6 bits a weight
# Mean squared error of the trellis over that of an ideal code, 2^12 states, by bits a weight.
_LOSS = ((0, 1, 2, 3, 4, 5, 6), (1.07, 1.09, 1.14, 1.2, 1.27, 1.36, 1.58))

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """What decides the rates of a matrix.

    Attributes:
        variance: float64 [in], mean square of each column (rows divided by their steps).
        cost: float64 [in], D_j.
        carried: float64 [in], D_j sum_(i<j) U_ij^2: what the errors of the columns before add.
        share: float64 [in], the share of a column that is not zero; its variance is of that.
    """

    variance: F64
    cost: F64
    carried: F64
    share: F64 = field(default_factory=lambda: np.ones(1))


def spread(variance: F64, U: NDArray[np.floating[Any]]) -> Spread:
    """From column variances [in] and U [in, in], upper, with U^T U the inverse second moment."""
    cost = 1 / np.diagonal(U).astype(np.float64) ** 2
    # einsum reads a matrix that is stored by columns far faster than its transpose is summed
    square = np.einsum("ji,ji->j", U.T, U.T, dtype=np.float64)
    return Spread(variance, cost, np.maximum(square * cost - 1, 0))


def at_level(s: Spread, level: float) -> NDArray[np.int32]:
    """Rates in eighths of a bit for a water level; below 0: not worth half a bit, all zeros."""
    exact = _exact(s, level)
    rate = np.clip(np.rint(exact), 0, MOST).astype(np.int32)
    return np.where(rate < LEAST, -1, rate).astype(np.int32)


def damage(s: Spread, level: float) -> float:
    """Predicted sum over columns of D_j times the error's variance at a water level."""
    rate = np.maximum(at_level(s, level), 0)
    wide = s.variance * s.cost + _fed_back(s, level)
    bits = rate / UNIT
    left = wide * np.where(rate > 0, np.interp(bits, *_LOSS) * 4.0**-bits, 1.0)
    return float((left * s.share).sum())


def curve(s: Spread, count: int = 240) -> tuple[F64, F64]:
    """(bits, damage) [count] along falling water levels: bits rise, from none to the most.

    One pass over the levels answers for every rate, where `level_for` searches for one.
    """
    top = _highest(s) + 2
    floor = float(np.log2(max((s.variance * s.cost).min(), 1e-300))) - 2 * MOST / UNIT
    levels = np.exp2(np.linspace(top, max(floor, top - 60), count))
    bits = [taken(s, at_level(s, level)) for level in levels]
    return np.array(bits), np.array([damage(s, level) for level in levels])


def taken(s: Spread, rate: NDArray[np.int32]) -> float:
    """Bits a weight that these rates take, over all weights, zeros included."""
    return float((np.maximum(rate, 0) * s.share).mean() / UNIT)


def level_for(s: Spread, bits: float) -> float:
    """The water level at which columns take `bits` a weight on average, or just below."""
    high = _highest(s) + 8
    low = high - 200
    for _ in range(64):
        middle = (low + high) / 2
        if taken(s, at_level(s, 2.0**middle)) > bits:
            low = middle
        else:
            high = middle
    return float(2.0**high)


def allocate(s: Spread, bits: float) -> tuple[NDArray[np.int32], float]:
    """(rates in eighths of a bit, water level) of at most `bits` a weight on average.

    What rounding leaves over goes, an eighth at a time, to the columns nearest to their next step,
    and what then is left to columns that were not coded.
    """
    level = level_for(s, bits)
    rate = at_level(s, level)
    share = np.broadcast_to(s.share, len(rate))
    spare = bits * UNIT * len(rate) - float((np.maximum(rate, 0) * share).sum())
    coded = np.flatnonzero((rate >= LEAST) & (rate < MOST))
    exact = _exact(s, level)
    order = coded[np.argsort((rate - exact)[coded], kind="stable")]
    raised = order[share[order].cumsum() <= spare]
    rate[raised] += 1
    spare -= float(share[raised].sum())
    idle = np.flatnonzero(rate < 0)
    order = idle[np.argsort(-exact[idle], kind="stable")]
    rate[order[(LEAST * share[order]).cumsum() <= spare]] = LEAST
    return rate, level


def unevenness(weight: F64, bits: F64) -> F64:
    """What is left of the weighted error where rows [out] count unevenly, at each of `bits`.

    A path spends its freedom on the rows that count: at its best as reverse water-filling over the
    rows would, which leaves the mean of min(weight, level) for mean(weight) 4^-bits: at most 1.
    With 2^12 states it comes within 1.1 to 1.5 of that where weights span a factor of a thousand.
    """
    w = np.sort(weight)[::-1]
    log, count = np.cumsum(np.log2(w)), np.arange(1, len(w) + 1)
    # the rows above the level are those that all the bits can bring down to the last of them
    spent = 2 * bits * len(w)
    above = np.searchsorted(log - count * np.log2(w), spent, side="right")
    level = 2.0 ** ((log[above - 1] - spent) / above)
    below = w.sum() - np.cumsum(w)[above - 1]
    return np.asarray((above * level + below) * 4.0**bits / w.sum())


def _highest(s: Spread) -> float:
    """Binary logarithm of a level above which no column is coded, whatever is fed back to it."""
    widest = (s.variance * s.cost).max() * (1 + s.carried.max())
    return float(np.log2(max(widest, 1e-300)))


def _exact(s: Spread, level: float) -> F64:
    wide = (s.variance * s.cost + _fed_back(s, level)) / level
    return np.asarray(UNIT * 0.5 * np.log2(np.maximum(wide, 1e-300)))


def _fed_back(s: Spread, level: float) -> F64:
    """What the errors of the columns before add to D_j v_j; none costs more than the widest."""
    return np.asarray(s.carried * min(level, float((s.variance * s.cost).max())))
