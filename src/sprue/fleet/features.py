"""Text as hashed n-grams: of characters within words, of words, and of pairs of words.

Every substring's hash follows from prefix sums: with C_j = sum of c_i P^i over the first j
characters (modulo 2^64, P odd), the characters i to j hash to (C_j - C_i) P^-i, wherever they
stand. So all n-grams of a text take a few operations on arrays, and nothing is stored of the texts
themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

BITS = 20  # of a bucket
SIZES = (2, 3, 4, 5)  # characters of an n-gram
LONGEST = 1 << 16  # characters of a text that are looked at
_P, _MIX = 0x9E3779B97F4A7C15, 0xFF51AFD7ED558CCD
_SPACE = 32

U64 = NDArray[np.uint64]
Buckets = NDArray[np.int64]


@dataclass(frozen=True)
class Grams:
    """N-grams of a text, with repeats: their buckets, and to which of its words they belong.

    Attributes:
        characters, owners: int64 [n], n-grams of characters within words, and their words.
        words: int64 [m], the words in order.
        pairs: int64 [m - 1], each word with the next.
    """

    characters: Buckets
    owners: Buckets
    words: Buckets
    pairs: Buckets


def plain(text: str) -> str:
    """Small letters, and one space between words."""
    return " ".join(text[:LONGEST].lower().split())


def grams(text: str) -> Grams:
    """The n-grams of a text."""
    code = _codes(plain(text))
    C = np.zeros(len(code) + 1, np.uint64)
    power, inverse = _powers(len(code))
    np.cumsum(code.astype(np.uint64) * power, out=C[1:])
    space = code == _SPACE
    if len(code) == 2:  # the spaces around nothing
        return Grams(*(np.zeros(0, np.int64) for _ in range(4)))
    edges = np.flatnonzero(space)
    words, pairs = (_words(C, inverse, edges, n) for n in (1, 2))
    return Grams(*_characters(C, inverse, space), words, pairs)


def _codes(text: str) -> NDArray[np.uint32]:
    """Characters between two spaces, uint32; lone surrogates are characters like others."""
    return np.frombuffer(f" {text} ".encode("utf-32-le", "surrogatepass"), np.uint32)


def _powers(length: int) -> tuple[U64, U64]:
    size = 256
    while size < length:
        size *= 4
    power, inverse = _table(size)
    return power[:length], inverse[:length]


@cache
def _table(size: int) -> tuple[U64, U64]:
    """P^i and P^-i modulo 2^64."""
    both = []
    for base in (_P, pow(_P, -1, 1 << 64)):
        found = np.full(size, base, np.uint64)
        found[0] = 1
        both.append(np.cumprod(found))
    return both[0], both[1]


def _characters(C: U64, inverse: U64, space: NDArray[np.bool_]) -> tuple[Buckets, Buckets]:
    """No n-gram reaches over a space; those at the ends of words hold one."""
    found, owners = [], []
    until = np.concatenate((np.zeros(1, np.int64), np.cumsum(space)))
    for n in SIZES:
        count = max(0, len(space) - n + 1)
        inner = until[n - 1 : n - 1 + count] == until[1 : 1 + count]
        value = (C[n : n + count] - C[:count]) * inverse[:count]
        found.append(_bucket(value[inner], n))
        owners.append(until[1 : 1 + count][inner] - 1)
    return np.concatenate(found), np.concatenate(owners)


def _words(C: U64, inverse: U64, edges: Buckets, n: int) -> Buckets:
    """So many words that stand beside one another; `edges` are the spaces around words."""
    start, end = edges[:-n] + 1, edges[n:]
    return _bucket((C[end] - C[start]) * inverse[start], 100 + n)


def _bucket(value: U64, kind: int) -> Buckets:
    """The upper bits of a mixture in which every bit counts (Appleby's MurmurHash3)."""
    value = value + np.uint64(kind)
    value ^= value >> np.uint64(33)
    value *= np.uint64(_MIX)
    value ^= value >> np.uint64(29)
    value *= np.uint64(_P)
    return (value >> np.uint64(64 - BITS)).astype(np.int64)
