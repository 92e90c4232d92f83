"""The smallest size whose measured loss stays within a bound, in few measurements.

Each measurement costs a whole compression. The predicted loss gives the shape of the curve, every
measurement its height, and the bracket of a size that failed and one that passed closes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

CLOSE = 0.02  # a size that passed lies at most so far above one that failed, relatively
_MARGIN = 0.97  # of the bound, which the next size aims at
_MOST = 7  # measurements
_AIMED = 3  # measurements after which a bracket is halved


@dataclass(frozen=True)
class Curve:
    """Predicted loss by size; between the points it is a power of the size.

    Attributes:
        sizes: bytes, ascending.
        losses: nats per token, descending.
    """

    sizes: Sequence[int]
    losses: Sequence[float]

    def loss(self, size: float) -> float:
        """At a size within the curve's."""
        return float(np.exp(np.interp(np.log(size), np.log(self.sizes), self._logs())))

    def size(self, loss: float) -> int:
        """The least size at which no more is lost, or the largest."""
        at = np.interp(np.log(max(loss, 1e-300)), self._logs()[::-1], np.log(self.sizes)[::-1])
        return min(max(round(float(np.exp(at))), self.sizes[0]), self.sizes[-1])

    def _logs(self) -> NDArray[np.float64]:
        losses = np.maximum(np.asarray(self.losses, np.float64), 1e-300)
        # strictly falling, so that every loss has one size
        return np.asarray(np.log(np.minimum.accumulate(losses)) - 1e-9 * np.arange(len(losses)))


@dataclass(frozen=True)
class Measured:
    """One measurement.

    Attributes:
        size: bytes.
        loss: nats per token.
        passed: whether it is within the bound.
    """

    size: int
    loss: float
    passed: bool


def smallest(
    measure: Callable[[int], float], predicted: Curve, bound: float, most: int = _MOST
) -> list[Measured]:
    """What was measured on the way to the smallest size that passes, in order.

    Args:
        measure: size -> loss.
        predicted: what it is expected to be.
        bound: loss that passes, above 0.
        most: measurements.
    """
    found: list[Measured] = []
    size: int | None = predicted.size(_MARGIN * bound)
    while size is not None and len(found) < most:
        loss = measure(size)
        found.append(Measured(size, loss, loss <= bound))
        size = _next(found, predicted, bound)
    return found


def _next(found: Sequence[Measured], predicted: Curve, bound: float) -> int | None:
    """The size to measure next; None: there is none that would help."""
    least, largest = predicted.sizes[0], predicted.sizes[-1]
    good = min((m.size for m in found if m.passed), default=None)
    bad = max((m.size for m in found if not m.passed), default=None)
    if good == least or bad == largest:
        return None
    if good is not None and bad is not None and good <= (1 + CLOSE) * bad:
        return None
    # less than a tenth of the bound is noise, which says only that there is room
    last = found[-1]
    height = max(last.loss, 0.1 * bound) / predicted.loss(last.size)
    size = predicted.size(_MARGIN * bound / height)
    if good is not None and bad is not None and len(found) > _AIMED:
        return round(sqrt(good * bad))
    if good is not None:
        size = max(least, min(size, int(good / (1 + CLOSE))))
    if bad is not None:
        size = min(largest, max(size, ceil(bad * (1 + CLOSE / 2))))
    return size
