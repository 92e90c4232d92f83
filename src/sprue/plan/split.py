"""What to make of every feed-forward layer: how many experts, how many of them a token computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sprue.errors import InputError
from sprue.models import FeedForward, Source
from sprue.structure.experts import sizes

GROUPINGS = ("router", "coactivation", "weights", "random")
ROUTERS = ("ridge", "representative", "random")


@dataclass(frozen=True)
class Split:
    """Experts of every feed-forward layer.

    Attributes:
        experts: how many, those that always compute included.
        active: how many a token computes, those that always compute included.
        shared: how many always compute; they hold the neurons with the most energy.
        seed: of everything that is random.
        grouping: "router" (groups and router in turns), "coactivation", "weights" (k-means on the
            rows of up or gate) or "random".
        router: "ridge", "representative" (a row of the neuron nearest to the middle of its
            group) or "random".
        repair: whether the down projections are fitted again.
    """

    experts: int = 8
    active: int = 2
    shared: int = 0
    seed: int = 0
    grouping: str = "router"
    router: str = "ridge"
    repair: bool = True

    def __post_init__(self) -> None:
        if self.experts < 2 or not 1 <= self.active <= self.experts:
            raise InputError(
                f"expected 2 experts or more and 1 to all of them active, got {self.experts} and "
                f"{self.active}"
            )
        if not 0 <= self.shared < self.active:
            raise InputError(
                f"expected fewer shared experts than active ones ({self.active}), since a token "
                f"computes at least one that the router picks; got {self.shared}"
            )
        for what, given, known in (
            ("a grouping", self.grouping, GROUPINGS),
            ("a router", self.router, ROUTERS),
        ):
            if given not in known:
                raise InputError(f"expected {what} of {', '.join(known)}, got {given!r}")

    @property
    def routed(self) -> int:
        """Experts that the router picks from."""
        return self.experts - self.shared

    @property
    def picked(self) -> int:
        """How many of them a token computes."""
        return self.active - self.shared

    def layout(self, neurons: int, width: int, gated: bool, bias: bool) -> dict[str, Any]:
        """That of `runtime.experts.Experts`, without the activation."""
        every = sizes(neurons, self.experts)
        return {
            "width": width,
            "shared": sum(every[: self.shared]),
            "routed": every[self.shared :],
            "active": self.picked,
            "gated": gated,
            "bias": bias,
        }

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def feed_forward(source: Source) -> FeedForward:
    """What the feed-forward layers of a model are.

    Raises:
        InputError: they cannot be made experts.
    """
    found = source.family.feed_forward
    if found is None:
        raise InputError(
            f"the feed-forward layers of {source.name} (model_type "
            f"{source.raw.get('model_type')!r}) are no modules of their own, so that no experts "
            "can take their place; known are models built like Llama, Gemma, Phi, GPT-2, GPT-NeoX"
        )
    return found


def check(source: Source, split: Split) -> None:
    """Refuse what cannot be done to a model.

    Raises:
        InputError: feed-forward layers that are no modules, or with fewer neurons than experts.
    """
    part = feed_forward(source)
    name = f"{source.family.block(0)}.{part.module}.{part.down}.weight"
    neurons = source.shape(name)[0 if source.family.transposed else 1]
    if neurons < split.experts:
        raise InputError(
            f"{split.experts} experts were asked for, and the feed-forward layers of {source.name} "
            f"have {neurons} neurons: ask for {neurons} at most"
        )


def multiplications(layout: Mapping[str, Any]) -> tuple[int, int]:
    """Of one token in a layer of experts, the router's included, and in the dense one."""
    width = layout["width"]
    each = width * (3 if layout["gated"] else 2)
    dense = each * (layout["shared"] + sum(layout["routed"]))
    return each * _computed(layout) + width * len(layout["routed"]), dense


def parameters(layout: Mapping[str, Any]) -> tuple[int, int]:
    """Of a layer of experts: those that a token computes with, and all."""
    width, routed = layout["width"], layout["routed"]
    matrices = 3 if layout["gated"] else 2
    each = width * matrices + (matrices - 1 if layout["bias"] else 0)
    around = (width + 2) * len(routed) + width  # router with its bias, gains, the bias of down
    return (
        each * _computed(layout) + around,
        each * (layout["shared"] + sum(layout["routed"])) + around,
    )


def _computed(layout: Mapping[str, Any]) -> int:
    """Neurons that a token computes, were it to choose the largest experts."""
    return int(layout["shared"] + sum(sorted(layout["routed"])[-layout["active"] :]))
