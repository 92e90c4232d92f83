"""Numbers as people read them."""

from __future__ import annotations

import math


def size(nbytes: float) -> str:
    """Bytes with a decimal unit."""
    for unit, power in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= power:
            return f"{nbytes / power:.2f} {unit}"
    return f"{nbytes:.0f} B"


def percent(share: float) -> str:
    """A share, rounded down: less than all is never shown as 100%, nor a missed margin as met."""
    digits = 3 if 0.999 <= share < 1 else 2
    unit = 10 ** (digits + 2)
    shown = math.floor(share * unit + 1e-6) / unit
    return f"{100 * shown:.{digits}f}%"


def asked(share: float) -> str:
    """A margin as it was given."""
    return f"{100 * share:.6g}%"


def signed(share: float) -> str:
    """A relative change."""
    return f"{100 * share:+.2f}%".replace("-", "−")
