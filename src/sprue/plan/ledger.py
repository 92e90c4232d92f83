"""What matrices were allowed and took, so that what one leaves goes to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sprue.weights.choice import Choice
from sprue.weights.packed import Packed

_GRANT = 0.25  # bits a weight that a matrix may take over from those before it
_MOST = 16.0  # bits a weight that a choice may state


@dataclass(frozen=True)
class Record:
    """What is kept of a packed matrix once it is written."""

    choice: Choice
    layout: Mapping[str, Any]
    bits: int
    weights: int
    error: float


@dataclass
class Ledger:
    """The account of a walk; only trellises, which meet any rate, take part.

    Attributes:
        exact: every matrix takes what the recipe says (a recipe that is run again).
        carry: bits allowed and not yet taken.
    """

    exact: bool = False
    carry: float = 0.0

    def grant(self, choice: Choice, weights: int) -> Choice:
        """The choice with its share of what is left over."""
        if self.exact or choice.grid != "trellis":
            return choice
        return choice.with_bits(min(choice.bits + min(self.carry / weights, _GRANT), _MOST))

    def book(self, planned: Choice, result: Packed) -> None:
        """Note what a matrix took of what it was planned to take."""
        if planned.grid == "trellis":
            out, width = result.shape
            self.carry += planned.bits * out * width - result.bits
