"""Figures and names as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sprue.usage.store import DAY

UNKNOWN, UNNAMED = "(unknown)", "(not named)"

_UNITS = ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)
_BLOCKS = "▁▂▃▄▅▆▇█"


def plain(text: str) -> str:
    """With nothing in it that a terminal would act on."""
    return "".join(c if c.isprintable() else "�" for c in text)


def clipped(text: str, most: int) -> str:
    """Cut to so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def named(name: str | None) -> str:
    """A capability, tenant or model."""
    if name is None:
        return UNKNOWN
    return plain(name) if name.strip() else UNNAMED


def amount(value: float) -> str:
    """With a decimal prefix, to three digits: "12.3 M"."""
    for prefix, power in _UNITS:
        if value >= 0.9995 * power:
            return f"{value / power:.3g} {prefix}"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """A share, with as many digits as a small one needs."""
    return f"{100 * share:.1f}%" if share >= 0.001 or share == 0 else f"{100 * share:.2g}%"


def many(count: int, one: str, more: str | None = None) -> str:
    """A count and its noun."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def moment(seconds: float, unit: int = 1) -> str:
    """A time in UTC, no finer than a unit needs."""
    at = datetime.fromtimestamp(seconds, UTC)
    return at.strftime("%Y-%m-%d" if unit >= DAY else "%Y-%m-%d %H:%M")


def spark(values: Sequence[float], most: int = 24) -> str:
    """A row of blocks, as high as the values, several merged into one where there are many."""
    if not values:
        return ""
    width = -(-len(values) // most)
    sums = [sum(values[i : i + width]) for i in range(0, len(values), width)]
    top = max(sums) or 1
    return "".join(_BLOCKS[min(len(_BLOCKS) - 1, int(len(_BLOCKS) * v / top))] for v in sums)


def aligned(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: range) -> str:
    """A table for a terminal: columns of numbers flush right, those that say nothing left out."""
    lines = [heads, *rows]
    wide = {i: max(len(line[i]) for line in lines) for i in range(len(heads))}
    shown = [i for i in wide if any(row[i] for row in rows)]
    cells = [[f"{x[i]:{'>' if i in numbers else '<'}{wide[i]}}" for i in shown] for x in lines]
    return "\n".join("  ".join(line).rstrip() for line in cells)
