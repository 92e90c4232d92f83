"""Widths that a config can say: which groups keep as many units as others."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sprue.models.plain_config import numbers_of
from sprue.models.wired import unwired
from sprue.structure.units import Group


def sets_of(model: nn.Module, groups: Sequence[Group]) -> list[list[int]]:
    """Groups whose sizes one number of a config says, set by set, by their places in the list.

    Only numbers that say nothing else count: those sizes change together, and with them alone.

    Args:
        model: a network of `transformers`, wired or not.
        groups: of the model that was given.
    """
    inner, prefix = unwired(model)
    found: list[list[int]] = []
    left = set(range(len(groups)))
    for number in numbers_of(inner):
        places = {(prefix + name, dim) for name, dim in number.places}
        within = [i for i in sorted(left) if _places(groups[i]) <= places]
        covered = set[tuple[str, int]]().union(*(_places(groups[i]) for i in within))
        if within and covered == places and len({len(groups[i]) for i in within}) == 1:
            found.append(within)
            left -= set(within)
    return found


def _places(group: Group) -> set[tuple[str, int]]:
    return {(place.name, place.dim) for place in group.places}
