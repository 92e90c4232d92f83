"""A feed-forward layer of experts, in the place of a dense one: a token computes a few of them.

What is not chosen is not computed. Each expert is a module with linears of its own, so that a
linear of an expert can be packed like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sprue.errors import ArtifactError

Layout = Mapping[str, Any]


class Expert(nn.Module):
    """down(act(gate x) * up x), or down(act(up x)) without a gate; the bias of down is outside.

    Args:
        width: of what goes in and comes out.
        neurons: in between.
        gated: whether there is a gate.
        bias: whether up and gate add one.
        activation: elementwise.
    """

    def __init__(
        self, width: int, neurons: int, gated: bool, bias: bool, activation: nn.Module
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(width, neurons, bias) if gated else None
        self.up = nn.Linear(width, neurons, bias)
        self.down = nn.Linear(neurons, width, False)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[tokens, width] -> [tokens, width]."""
        if self.gate is None:
            return self.down(self.activation(self.up(x)))  # type: ignore[no-any-return]
        return self.down(self.activation(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class Experts(nn.Module):
    """y = b + shared(x) + sum over the chosen of g_e E_e(x).

    Scores are s = W x + c; the `active` highest are chosen. g = 1 + gain * softmax(s): with gains
    of 0 the neurons count as they did in the dense layer (CMoE, Pei et al. 2025, section 4.4).

    Args:
        layout: "width", "shared" (neurons that always compute), "routed" (neurons of each routed
            expert), "active" (routed experts that a token computes), "gated", "bias".
        activation: of the layer that it takes the place of.
    """

    def __init__(self, layout: Layout, activation: nn.Module) -> None:
        super().__init__()
        width, gated, bias = layout["width"], layout["gated"], layout["bias"]
        self.layout, self.active = dict(layout), int(layout["active"])
        routed = list(layout["routed"])
        self.router = nn.Linear(width, len(routed))
        self.gain = nn.Parameter(torch.zeros(len(routed)))
        self.shared = (
            Expert(width, layout["shared"], gated, bias, activation) if layout["shared"] else None
        )
        self.experts = nn.ModuleList(Expert(width, n, gated, bias, activation) for n in routed)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width], in x's dtype."""
        flat = x.reshape(-1, x.shape[-1])
        base = self.bias.expand_as(flat)
        y = base.clone() if self.shared is None else self.shared(flat) + base
        scores = self.router(flat)
        chosen = scores.topk(self.active, -1).indices
        gates = self._gates(scores, chosen)
        if len(flat) == 1:
            for place, e in enumerate(chosen[0].tolist()):
                y = y + gates[:, place, None] * self.experts[e](flat)
            return y.view_as(x)
        for e, expert in enumerate(self.experts):
            rows, places = (chosen == e).nonzero(as_tuple=True)
            if len(rows):
                part = expert(flat.index_select(0, rows)) * gates[rows, places, None]
                y = y.index_add(0, rows, part.to(y.dtype))
        return y.view_as(x)

    def _gates(self, scores: Tensor, chosen: Tensor) -> Tensor:
        """g of the chosen experts, [tokens, active]."""
        return 1 + self.gain[chosen] * scores.softmax(-1).gather(-1, chosen)

    def extra_repr(self) -> str:
        return f"active={self.active} of {len(self.experts)}"


def like(old: nn.Module, layout: Layout, dtype: torch.dtype, device: str = "meta") -> Experts:
    """Experts (uninitialized) that take the place of `old`, with its activation.

    Raises:
        ArtifactError: `old` is no feed-forward layer of that layout.
    """
    activation = getattr(old, str(layout["activation"]), None)
    if not isinstance(activation, nn.Module):
        raise ArtifactError(
            f"config.json lists experts for a {type(old).__name__}, which has no activation "
            f"{layout['activation']!r}. Convert the model again with this version of transformers."
        )
    with torch.device("meta"):  # where initialization draws no random numbers
        made = Experts(layout, activation).to(dtype)
    return made if device == "meta" else made.to_empty(device=device)
