"""The thresholds of a fleet's reserves, found on traffic that both models were asked.

What is lost with an answer is how much less likely the specialist finds it than the full model
does, in nats a token beyond a tolerance, 0 at least and 1 at most. The largest doubt of its steps
decides whether it is handed over. Conformal risk control (`risk.threshold`) then gives the largest
threshold at which what is lost with the answers that stay with the specialist is, in the mean over
answers like these, at most what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sprue.fleet.fleet import FULL
from sprue.fleet.replayed import Asked, doubts, running
from sprue.fleet.reserve import Reserve
from sprue.fleet.risk import threshold


@dataclass(frozen=True)
class Risk:
    """What may be lost.

    Attributes:
        allowed: in the mean over answers, nats a token beyond the tolerance.
        tolerance: nats a token by which an answer may be less likely and nothing counts as lost:
            what two models that are equally good differ by in single answers.
    """

    allowed: float = 0.02
    tolerance: float = 0.1


def thresholds(
    shadow: Sequence[Asked],
    sizes: Mapping[str, int],
    risk: Risk,
    form: Reserve,
) -> dict[str, Reserve]:
    """Specialist -> its reserve.

    Args:
        shadow: needs that specialists got, with what the full model makes of each.
        sizes: model -> tokens of its vocabulary.
        risk: what may be lost.
        form: doubt, steps and tokens of the reserves; its threshold does not matter.
    """
    found = {}
    for name in sorted({one.model for one in shadow} - {FULL}):
        mine = [one for one in shadow if one.model == name]
        unsure = [peak(one, form, sizes[name]) for one in mine]
        lost = [lost_with(one, risk.tolerance) for one in mine]
        found[name] = replace(form, threshold=threshold(unsure, lost, risk.allowed))
    return found


def peak(asked: Asked, form: Reserve, size: int) -> float:
    """The largest doubt of a need's steps; `size` is the vocabulary of the model that got it."""
    return float(running(doubts(asked.by.read, form.doubt, size), form.over).max())


def lost_with(asked: Asked, tolerance: float) -> float:
    """With the specialist's answer, 0 to 1."""
    count = len(asked.full.tokens.answer)
    worse = float(asked.by.read.nats.sum() - asked.full.read.nats.sum()) / count
    return float(np.clip(worse - tolerance, 0.0, 1.0)) if math.isfinite(worse) else 1.0
