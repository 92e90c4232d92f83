"""From where a specialist is not believed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sprue.errors import InputError
from sprue.fleet.risk import threshold


def slow(u: list[float], loss: list[float], allowed: float, bound: float = 1.0) -> float:
    """Every threshold, one after the other."""
    found = -math.inf
    for t in sorted(set(u)):
        risk = sum(b for a, b in zip(u, loss, strict=True) if a <= t)
        if (risk + bound) / (len(u) + 1) <= allowed:
            found = math.inf if t == max(u) else t
    return found


@pytest.mark.parametrize("seed", range(30))
def test_against_every_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    u = rng.integers(0, 12, 40).astype(float).tolist()  # many are as unsure as others
    loss = (rng.random(40) < 0.3).astype(float).tolist()
    for allowed in (0.01, 0.05, 0.1, 0.2, 0.5):
        assert threshold(u, loss, allowed) == slow(u, loss, allowed)


@pytest.mark.parametrize("allowed", [0.05, 0.1])
def test_the_next_loss_is_as_low_as_was_asked(allowed: float) -> None:
    rng = np.random.default_rng(0)
    kept, taken = [], []
    for _ in range(3000):
        u = rng.random(101)
        loss = (rng.random(101) < u * u).astype(float)  # the less sure, the more often wrong
        t = threshold(u[:-1].tolist(), loss[:-1].tolist(), allowed)
        kept.append(loss[-1] * (u[-1] <= t))
        taken.append(u[-1] <= t)
    error = 3 * (allowed / 3000) ** 0.5
    assert np.mean(kept) <= allowed + error
    assert np.mean(kept) >= allowed - 1 / 101 - error  # and no more careful than it has to be
    assert 0.3 < np.mean(taken) < 0.9


def test_ends() -> None:
    assert threshold([0.1, 0.2], [0, 0], 0.01) == -math.inf  # two steps show nothing
    assert threshold([0.1] * 200, [0] * 200, 0.01) == math.inf
    assert threshold([0.1] * 100 + [0.9] * 100, [0] * 100 + [1] * 100, 0.02) == 0.1
    assert threshold([0.1] * 200, [1] * 200, 0.02) == -math.inf


@pytest.mark.parametrize(
    ("u", "loss"), [([], []), ([1.0], []), ([math.nan], [0.0]), ([1.0], [2.0]), ([1.0], [-0.1])]
)
def test_what_makes_no_sense(u: list[float], loss: list[float]) -> None:
    with pytest.raises(InputError, match="expected"):
        threshold(u, loss, 0.1)
