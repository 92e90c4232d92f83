"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sprue.proof.quality import Quality, Verdict


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


def sentence(verdict: Verdict, quality: Quality) -> str:
    """A verdict in words."""
    keep, least = verdict.keep, percent(verdict.kept_at_least)
    sure = f"{100 * verdict.confidence:.4g}% confidence"
    if keep is None:
        return f"At least {least} of the quality was kept, with {sure}."
    if verdict.passed:
        return f"Kept: at least {least} of the quality, with {sure}; {asked(keep)} was asked for."
    measured = percent(quality.kept.value)
    if quality.kept.high < keep:
        return f"Not kept: {measured} of the quality is left; {asked(keep)} was asked for."
    return (
        f"Not proven: {measured} of the quality was measured, and this much text only proves "
        f"{least} with {sure}; {asked(keep)} was asked for."
    )


def signed(share: float) -> str:
    """A relative change."""
    return f"{100 * share:+.2f}%".replace("-", "−")
