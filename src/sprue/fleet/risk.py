"""From where a specialist is not believed: conformal risk control.

A specialist's step is taken where its uncertainty is at most a threshold, and goes to the full
model where it is more. Of all thresholds at which the loss on n calibration steps stays so low that

    (n R(t) + B) / (n + 1) <= a,    R(t) the mean over the steps of loss x [uncertainty <= t],

the largest is taken; then the expected loss of the next step is at most a, whatever uncertainty and
loss are like, as long as the next step is drawn like those (Angelopoulos et al. 2022,
arXiv:2208.02814, section 2.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sprue.errors import InputError


def threshold(
    uncertainty: Sequence[float], loss: Sequence[float], allowed: float, bound: float = 1.0
) -> float:
    """The largest uncertainty at which a specialist is believed.

    Args:
        uncertainty: of each calibration step, the higher the less sure.
        loss: of each, should the specialist's step be taken, 0 to `bound`.
        allowed: mean loss that may be added, as a share of steps or in the loss's own unit.
        bound: the largest loss that there can be.

    Returns:
        A number that was seen, infinity where every step may be taken, or minus infinity where
        none may: so few steps can't show that the loss is low.

    Raises:
        InputError: lengths that differ, no steps, NaN, or losses beyond the bound.
    """
    u, lost = np.asarray(uncertainty, np.float64), np.asarray(loss, np.float64)
    if u.ndim != 1 or u.shape != lost.shape or not len(u):
        raise InputError(
            f"expected an uncertainty and a loss for each step, got {u.shape} and {lost.shape}"
        )
    if np.isnan(u).any() or not ((lost >= 0) & (lost <= bound)).all():
        raise InputError(f"expected uncertainties that are numbers and losses from 0 to {bound:g}")
    order = np.argsort(u, kind="stable")
    u, total = u[order], np.cumsum(lost[order])
    met = (total + bound) / (len(u) + 1) <= allowed
    last = np.append(u[1:] != u[:-1], True)  # steps as unsure as others are taken with them
    good = np.flatnonzero(met & last)
    if met[-1]:
        return math.inf
    if len(good):
        return float(u[good[-1]])
    return -math.inf
