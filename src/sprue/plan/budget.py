"""Sizes as users state them."""

from __future__ import annotations

import re
from fractions import Fraction
from math import floor

from sprue.errors import BudgetError, InputError

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
# a comma only before three digits: 1,5 could be one and a half
_FORM = re.compile(
    r"\s*([0-9]{1,3}(?:[,_][0-9]{3}){1,5}|[0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18})"
    r"\s*(%|[a-z]*)\s*",
    re.IGNORECASE,
)


def parse_size(text: str, original: int) -> int:
    """Bytes that "30%" (of `original` bytes), "1964544", "2MB" or "1.5GiB" mean, rounded down.

    Raises:
        InputError: another form, or an unknown unit.
        BudgetError: nothing, or more than the original.
    """
    match = _FORM.fullmatch(text)
    unit = match.group(2).lower() if match else ""
    if match is None or (unit != "%" and unit not in _UNITS):
        raise InputError(
            f"the size {text!r} is not understood: give a share of the original (30%), bytes "
            "(1964544), or a number with kB, MB, GB, KiB, MiB or GiB"
        )
    number = Fraction(match.group(1).replace(",", "").replace("_", ""))
    size = floor(number * original / 100 if unit == "%" else number * _UNITS[unit])
    if not 0 < size <= original:
        raise BudgetError(
            f"the size {text} is {size:,} bytes; it must be above 0 and at most the original's "
            f"{original:,} bytes"
        )
    return size
