"""Second moments of what linears receive, summed as it streams by."""

from __future__ import annotations

import torch
from torch import Tensor


class Moment:
    """A callback that sums x x^T over tokens; float32."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._tokens = 0

    def __call__(self, x: Tensor) -> None:
        """Add x [tokens, in]."""
        if self._sum is None:
            self._sum = torch.zeros(x.shape[1], x.shape[1], device=x.device)
        self._sum.addmm_(x.T, x)
        self._tokens += len(x)

    def mean(self) -> Tensor:
        """The mean over tokens, float32 [in, in] on the CPU; takes the place of the sum, once."""
        assert self._sum is not None
        total, self._sum = self._sum, None
        return total.div_(self._tokens).cpu()


class Pair:
    """Second moment H of what a linear gets, and C of what the original got against it."""

    def __init__(self) -> None:
        self._H = Moment()
        self._original: Tensor | None = None
        self._cross: Tensor | None = None
        self._tokens = 0

    def original(self, x: Tensor) -> None:
        """What the original's linear gets in this batch, [tokens, in]."""
        self._original = x.clone()

    def now(self, x: Tensor) -> None:
        """What it gets now, for the same tokens in the same order."""
        self._H(x)
        if self._original is None:
            return
        if self._cross is None:
            self._cross = torch.zeros(x.shape[1], x.shape[1], device=x.device)
        self._cross.addmm_(self._original.T, x)
        self._tokens += len(x)
        self._original = None

    def means(self) -> tuple[Tensor, Tensor | None]:
        """(H, C or None where the original was not given), float32 [in, in], once."""
        cross, self._cross = self._cross, None
        return self._H.mean(), None if cross is None else cross.div_(self._tokens).cpu()
