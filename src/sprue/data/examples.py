"""Examples as a network gets them, with what is true of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """Inputs of a network, and what is true of them.

    Attributes:
        inputs: one tensor for each argument of the network, [examples, ...].
        truth: for each example what its task calls true: the number of a class, numbers of tags,
            boxes, answers; None where nothing is known.
        fingerprint: sha256, in hexadecimal, over what was read.
        rows: of inputs that make one example: 2 where two texts are compared, which follow one
            another.
    """

    inputs: tuple[Tensor, ...]
    truth: Sequence[Any] | None
    fingerprint: str
    rows: int = 1

    def __len__(self) -> int:
        return len(self.inputs[0]) // self.rows

    def some(self, chosen: Sequence[int]) -> Examples:
        """Those at these places, in this order."""
        truth = None if self.truth is None else [self.truth[i] for i in chosen]
        rows = [self.rows * i + k for i in chosen for k in range(self.rows)]
        return Examples(tuple(x[rows] for x in self.inputs), truth, self.fingerprint, self.rows)

    def sample(self, count: int, seed: int) -> Examples:
        """So many of them, drawn without replacement; all where there are no more."""
        order = np.random.default_rng(seed).permutation(len(self))[:count]
        return self.some(sorted(order.tolist()))

    def batches(self, size: int) -> list[tuple[Tensor, ...]]:
        """Arguments of the network, `size` rows at once; the last may be shorter."""
        starts = range(0, len(self.inputs[0]), size)
        return [tuple(x[start : start + size] for x in self.inputs) for start in starts]
