"""Whether a run of characters was drawn at random, as keys are, or means something."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import pairwise

_LOOKED = 200  # characters of a run that are looked at
_HEX = frozenset("0123456789abcdefABCDEF")
_DIGEST = 32  # hexadecimal digits that only a digest or a key has
_CHANGES = 0.3  # of neighbors that are of different kinds: names in code have fewer
_CAPITALS = 0.2  # the same where all letters are capitals, as in base32
_BITS = 3.0  # of entropy for a character, at least
_WORD = re.compile(r"[A-Z][a-z]{4,}")
_WORDS = 0.4  # of a run that capitalized words make up: a name in code
_LONG = 32  # characters of which a single one needs to be a digit


def is_key(run: str) -> bool:
    """Whether this run of letters, digits and +/_- looks like a key.

    Names and paths keep to one kind of character for a while: `FileReaderV2`, `src/main/java`. Of
    random letters and digits about half the neighbors are of different kinds.
    """
    some = run[:_LOOKED].rstrip("=")
    if set(some) <= _HEX:
        return len(some) >= _DIGEST and len(set(some)) > 4 and not some.isdigit()
    kinds = [_kind(c) for c in some]
    pairs = [(a, b) for a, b in pairwise(kinds) if a and b]
    digits = 1 if len(some) >= _LONG else 2
    if len(pairs) < 12 or kinds.count("digit") < digits or len(set(kinds) - {""}) < 2:
        return False
    if len("".join(_WORD.findall(some))) >= _WORDS * len(some):
        return False
    changes = sum(a != b for a, b in pairs) / len(pairs)
    least = _CHANGES if "lower" in kinds else _CAPITALS
    return changes >= least and entropy(some) >= _BITS


def entropy(run: str) -> float:
    """Shannon's, of its characters, in bits."""
    counts = Counter(run).values()
    return -sum(n / len(run) * math.log2(n / len(run)) for n in counts)


def _kind(character: str) -> str:
    if character.isdigit():
        return "digit"
    if character.isalpha():
        return "upper" if character.isupper() else "lower"
    return ""
