"""Examples, shared out: what a network is fitted to is never what it is judged or proven by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sprue.data.examples import Examples
from sprue.degating.asked import Asked, Given
from sprue.errors import InputError
from sprue.models import nets
from sprue.plan.prune import macs

_HELD = 0.5  # share of examples that are held for the proof, where no others are given
_JUDGED = 0.25  # share of the calibration that the search judges by, and nothing is fitted to
_JUDGES = 1000  # examples that it judges by, at most
_WORK = 1e12  # multiplications that reading a network may take, about: a minute or two
_EXAMPLES = 64, 2048  # to calibrate on, at least and at most
_PROVEN = 5000  # examples of the proof, at most
_TRAINED = 20_000  # examples of training that fit into memory, at most


@dataclass(frozen=True)
class Parts:
    """Examples, apart by what they are for."""

    fit: Examples
    train: Examples
    judge: Examples
    prove: Examples
    files: tuple[str, ...]

    @classmethod
    def read(cls, given: Given, net: nets.Net, asked: Asked) -> Parts:
        """Read and share out.

        Raises:
            InputError: too few.
        """
        count = given.examples or _affordable(net)
        most = (_TRAINED if asked.minutes else count) + _JUDGES
        if given.calibrate is not None and given.data is not None:
            fitted = given.read(net, given.calibrate, most, asked.seed)
            prove = given.read(net, given.data, _PROVEN, asked.seed)
            files = (str(given.data),)
        else:
            path = given.calibrate or given.data
            assert path is not None
            both = given.read(net, path, most + _PROVEN, asked.seed)
            held = max(1, round(_HELD * len(both)))
            order = both.sample(len(both), asked.seed)
            mixed = _shuffled(order, asked.seed)
            prove, fitted = mixed.some(range(held)), mixed.some(range(held, len(both)))
            files = (f"{path} ({held} of {len(both)} examples, held for this)",)
        mixed = _shuffled(fitted, asked.seed + 1)
        judged = min(_JUDGES, max(1, round(_JUDGED * len(mixed))))
        train = mixed.some(range(judged, len(mixed)))
        fit, judge = train.some(range(min(count, len(train)))), mixed.some(range(judged))
        if len(fit) < 2 or len(prove) < 2:
            raise InputError(
                f"expected at least 2 examples to calibrate on and 2 to prove with, got {len(fit)} "
                f"and {len(prove)}: give more"
            )
        return cls(fit, train, judge, prove, files)


def _shuffled(examples: Examples, seed: int) -> Examples:
    return examples.some(np.random.default_rng(seed).permutation(len(examples)).tolist())


def _affordable(net: nets.Net) -> int:
    """Examples whose reading takes a minute or two."""
    total = sum(cost for cost, _ in macs(net.module, net.example).values())
    low, high = _EXAMPLES
    return int(min(high, max(low, _WORK / max(total, 1.0))))
