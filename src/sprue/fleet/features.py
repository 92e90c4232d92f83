"""Text as hashed n-grams: of characters within words, of words, of pairs, and of its outline.

Every substring's hash follows from prefix sums: with C_j = sum of c_i P^i over the first j
characters (modulo 2^64, P odd), the characters i to j hash to (C_j - C_i) P^-i, wherever they
stand. So all n-grams of a text take a few operations on arrays, and nothing is stored of the texts
themselves.

An outline is what is left of a text whose letters cannot be read: code, a contract and a story have
each their own, whatever they are about, so that a text is known by it where all words are new.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

BITS = 20  # of a bucket
SIZES = (2, 3, 4, 5)  # characters of an n-gram
OUTLINED = (3, 4, 5)  # symbols of an n-gram of an outline
LONGEST = 1 << 16  # characters of a text that are looked at
_P, _MIX = 0x9E3779B97F4A7C15, 0xFF51AFD7ED558CCD
_SPACE, _LINE = ord(" "), ord("\n")
_SMALL, _CAPITAL, _DIGIT = ord("a"), ord("A"), ord("0")
_BROKEN = 0x110000  # of gaps with ends of lines, after all characters
_SET_IN, _DEEPEST = 4, 7  # spaces of an indentation, and how many of them are told apart

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Buckets = NDArray[np.int64]


@dataclass(frozen=True)
class Grams:
    """N-grams of a text, with repeats: their buckets, and to which of its words they belong.

    Attributes:
        characters, owners: int64 [n], n-grams of characters within words, and their words.
        words: int64 [m], the words in order.
        pairs: int64 [m - 1], each word with the next.
        outlines, places: int64 [k], n-grams of the outline, and the words that they begin in or
            behind.
    """

    characters: Buckets
    owners: Buckets
    words: Buckets
    pairs: Buckets
    outlines: Buckets
    places: Buckets

    @property
    def count(self) -> int:
        """Of all of them."""
        return sum(map(len, (self.characters, self.words, self.pairs, self.outlines)))


def plain(text: str) -> str:
    """Small letters, and one space between words."""
    return " ".join(text[:LONGEST].lower().split())


def grams(text: str) -> Grams:
    """The n-grams of a text."""
    code = _codes(f" {plain(text)} ")
    if len(code) == 2:  # the spaces around nothing
        return Grams(*(np.zeros(0, np.int64) for _ in range(6)))
    C, inverse = _sums(code)
    space = code == _SPACE
    edges = np.flatnonzero(space)
    words, pairs = (_words(C, inverse, edges, n) for n in (1, 2))
    return Grams(*_characters(C, inverse, space), words, pairs, *_outlines(text))


def outline(text: str) -> tuple[U32, Buckets]:
    """The symbols of a text, uint32, and the word that each is in, or behind, int64.

    However many small letters, capitals, digits or equal signs follow one another, they are one
    symbol, and so is space; where a line ends in it, how far the next is set in tells it apart.
    """
    code = _codes(text[:LONGEST].strip())
    if not len(code):
        return code, np.zeros(0, np.int64)
    distinct, which = np.unique(code, return_inverse=True)
    symbol = np.array([_symbol(int(one)) for one in distinct], np.uint32)[which]
    starts = np.flatnonzero(np.concatenate(([True], symbol[1:] != symbol[:-1])))
    found = symbol[starts]
    gaps = found == _SPACE
    lines = np.add.reduceat(code == _LINE, starts, dtype=np.int64)
    spaces = np.diff(starts, append=len(code)) - lines
    deep = np.minimum(-(-spaces // _SET_IN), _DEEPEST) + (_DEEPEST + 1) * (lines > 1)
    found = np.where(gaps & (lines > 0), _BROKEN + deep, found).astype(np.uint32)
    return found, np.cumsum(gaps) - gaps


@lru_cache(1 << 12)
def _symbol(code: int) -> int:
    """What a character is in an outline."""
    one = chr(code)
    if one.isspace():
        return _SPACE
    if one.isalpha():
        return _CAPITAL if one.isupper() else _SMALL
    return _DIGIT if one.isdigit() else code


def _outlines(text: str) -> tuple[Buckets, Buckets]:
    symbols, words = outline(text)
    C, inverse = _sums(symbols)
    found = [_bucket(_between(C, inverse, n), 200 + n) for n in OUTLINED]
    return np.concatenate(found), np.concatenate([words[: len(some)] for some in found])


def _codes(text: str) -> U32:
    """Characters, uint32; lone surrogates are characters like others."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _sums(code: U32) -> tuple[U64, U64]:
    """The sums that hashes follow from, [n + 1], and what takes the place out of them, [n]."""
    C = np.zeros(len(code) + 1, np.uint64)
    power, inverse = _powers(len(code))
    np.cumsum(code.astype(np.uint64) * power, out=C[1:])
    return C, inverse


def _between(C: U64, inverse: U64, n: int) -> U64:
    """Of every n-gram in order; none, where there is less."""
    count = max(0, len(C) - n)
    return (C[n : n + count] - C[:count]) * inverse[:count]


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
        found.append(_bucket(_between(C, inverse, n)[inner], n))
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
