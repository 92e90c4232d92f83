"""How sizes that a file states in numbers follow from the shape that comes in."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any


def planned(
    before: Sequence[int], after: Sequence[int], free: Sequence[bool], batch: int | None
) -> list[Any]:
    """For each size of a reshaped tensor how it follows from sizes that came in.

    Args:
        before: the shape that came in.
        after: the shape that comes out.
        free: which sizes may be stated otherwise.
        batch: how many examples there are.

    Returns:
        (dimensions whose product it is, divisor), or None for a size that stays as it is.
    """
    plan: list[Any] = [None] * len(after)
    for olds, news in _runs(before, after):
        if not olds or not news:
            continue
        if len(olds) > 1 and len(news) > 1:
            continue
        lead = next((d for d in news if after[d] > 1), news[0])
        if news[0] == 0 and olds[0] == 0 and after[0] == batch:
            lead = 0
        others = [d for d in news if d != lead]
        if free[lead] and all(free[d] or after[d] == 1 for d in others):
            plan[lead] = (tuple(olds), prod(after[d] for d in others))
    return plan


def _runs(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Dimensions, old and new, of the same size together; as few at a time as can be."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        olds, news = [i], [j]
        a, b = before[i], after[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                a *= before[i]
                olds.append(i)
                i += 1
            else:
                b *= after[j]
                news.append(j)
                j += 1
        found.append((olds, news))
    if found:
        found[-1][0].extend(range(i, len(before)))
        found[-1][1].extend(range(j, len(after)))
    return found


def swapped(
    start: Sequence[int], between: Sequence[int], order: Sequence[int], end: Sequence[int]
) -> list[int] | None:
    """The order of dimensions in which a reshape, a transpose and a reshape put them together.

    Exporters swap the last two of many dimensions by putting those before them into one.

    Args:
        start: the shape that the first reshape gets.
        between: what it makes of it.
        order: of the transpose.
        end: the shape that the second reshape makes.
    """
    *lead, rows, columns = start
    if len(lead) < 2 or list(order) != [0, 2, 1] or list(between[1:]) != [rows, columns]:
        return None
    if list(end) != [*lead, columns, rows]:
        return None
    count = len(start)
    return [*range(count - 2), count - 1, count - 2]
