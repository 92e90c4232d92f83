"""The few shapes that the plots are made of, as SVG text.

Colors and fonts come from the page's style sheet by class, so that a plot follows light and dark.
Coordinates are those of a drawing WIDTH units wide, which the page scales.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from html import escape

WIDTH = 460.0

Scale = Callable[[float], float]


def drawing(height: float, title: str, description: str, parts: Iterable[str]) -> str:
    """A whole drawing, with its text alternative."""
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(title)}: '
        f'{escape(description)}" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def scale(domain: tuple[float, float], span: tuple[float, float]) -> Scale:
    """The linear map from `domain` to `span`."""
    width = domain[1] - domain[0] or 1.0
    return lambda value: span[0] + (value - domain[0]) / width * (span[1] - span[0])


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values within [low, high]: multiples of 1, 2 or 5 times a power of 10."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def shape(tag: str, kind: str, hint: str = "", **where: float) -> str:
    """One element of class `kind`; `hint` is shown under the pointer."""
    place = "".join(f' {name}="{value:.2f}"' for name, value in where.items())
    inside = f"<title>{escape(hint)}</title>" if hint else ""
    return f'<{tag} class="{kind}"{place}>{inside}</{tag}>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return shape("line", kind, x1=x1, y1=y1, x2=x2, y2=y2)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Words at a place."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">'
        f"{escape(words)}</text>"
    )


def polygon(corners: Iterable[tuple[float, float]], kind: str, hint: str = "") -> str:
    """A filled outline."""
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in corners)
    inside = f"<title>{escape(hint)}</title>" if hint else ""
    return f'<polygon points="{points}" class="{kind}">{inside}</polygon>'
