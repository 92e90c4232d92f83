"""How much is in memory at once."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

RESIDENT = 64 << 20  # bytes of activations of one kind that stay in memory
SMALL = 1 << 22  # entries of H up to which the matrices of a group are packed at the same time
_TOKENS = 1024  # in a forward: enough for full speed, few enough for wide layers


def batch_of(context: int) -> int:
    """Windows of `context` tokens in one forward."""
    return max(1, _TOKENS // context)


def tidy() -> None:
    """Give freed memory back to the system, which glibc keeps for later: it counts as resident."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    """`malloc_trim`, or None where the C library has none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
