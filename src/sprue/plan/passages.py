"""Passages of a text, cut where chance falls, for as many steps as one likes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sprue.errors import InputError


@dataclass(frozen=True)
class Passages:
    """step -> batches of passages; the same for the same step.

    Windows that lie where chance falls show every token at every place of a window, which matters
    where a small text is read many times; where a passage should come again, its places are fewer.

    Attributes:
        streams: tokens of texts that do not belong together, int64 [tokens] each.
        tokens: of a passage.
        count: passages of a step.
        at_once: of a batch, at most.
        seed: of the places.
        apart: tokens between places; 1: everywhere.

    Raises:
        InputError: no stream is as long as a passage.
    """

    streams: tuple[Tensor, ...]
    tokens: int
    count: int
    at_once: int
    seed: int = 0
    apart: int = 1

    def __post_init__(self) -> None:
        if max((len(stream) for stream in self.streams), default=0) < self.tokens:
            raise InputError(
                f"the text has fewer than {self.tokens} tokens on end to learn from: give more of "
                "it, or a shorter context"
            )

    @cached_property
    def _places(self) -> tuple[list[Tensor], Tensor]:
        """The streams that are long enough, and in how many places of each a passage can begin."""
        long = [stream for stream in self.streams if len(stream) >= self.tokens]
        return long, torch.tensor([(len(s) - self.tokens) // self.apart + 1 for s in long])

    def __call__(self, step: int) -> list[Tensor]:
        """Batches [passages, tokens] int64."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        long, places = self._places
        ends = places.cumsum(0)
        drawn = torch.randint(0, int(ends[-1]), (self.count,), generator=generator)
        which = torch.searchsorted(ends, drawn, right=True)
        begins = (drawn - (ends - places)[which]) * self.apart
        rows = [long[i][b : b + self.tokens] for i, b in zip(which, begins, strict=True)]
        return list(torch.split(torch.stack(rows), self.at_once))
