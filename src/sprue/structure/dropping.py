"""Which experts of a model that has some are needed least.

REAP (Lasby et al. 2025, arXiv:2510.13999, section 4): the importance of expert j is the mean over
the tokens that are routed to it of g_j(x) |E_j(x)|, with g_j the weight that the router gives it.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Importance:
    """Sums over tokens, expert by expert.

    Args:
        experts: how many there are.
    """

    def __init__(self, experts: int) -> None:
        self._total = torch.zeros(experts, dtype=torch.float64)
        self._tokens = torch.zeros(experts, dtype=torch.float64)

    def add(self, expert: int, gates: Tensor, outputs: Tensor) -> None:
        """Tokens that were routed to `expert`: weights [tokens] and its outputs [tokens, out]."""
        self._total[expert] += (gates * outputs.norm(dim=1)).sum(dtype=torch.float64)
        self._tokens[expert] += len(gates)

    @property
    def tokens(self) -> Tensor:
        """How many were routed to each expert, float64 [experts]."""
        return self._tokens

    def value(self) -> Tensor:
        """The importance, float64 [experts]; 0 for experts that no token was routed to."""
        return self._total / self._tokens.clamp_min(1)


def kept(importance: Tensor, count: int) -> Tensor:
    """Indices of the `count` most important experts, ascending; of equal ones the first."""
    order = torch.argsort(importance, descending=True, stable=True)
    return order[:count].sort().values
