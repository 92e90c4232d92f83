"""How much is in memory at once."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache
from typing import Any

RESIDENT = 64 << 20  # bytes of activations of one kind that stay in memory
SMALL = 1 << 22  # entries of H up to which the matrices of a group are packed at the same time
_M_MMAP_THRESHOLD, _MAPPED = -3, 4 << 20  # of glibc's malloc.h; bytes
_TOKENS = 1024  # in a forward: enough for full speed, few enough for wide layers


def batch_of(context: int) -> int:
    """Windows of `context` tokens in one forward."""
    return max(1, _TOKENS // context)


def tidy() -> None:
    """Give freed memory back to the system, which glibc keeps for later: it counts as resident."""
    trim = _trim()
    if trim is not None:
        trim(0)


def lean() -> None:
    """Let large arrays go back to the system as soon as they are freed, for this whole process.

    glibc otherwise raises the size from which it does so to that of the largest array ever freed,
    and what lies below is kept in pieces that fit nothing: half of the memory of a walk.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED)


@cache
def _trim() -> Any:
    """`malloc_trim`, or None where the C library has none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
