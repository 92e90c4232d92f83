"""Hashed n-grams against a plain reference that cuts strings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprue.fleet.features import BITS, OUTLINED, SIZES, Grams, grams, outline, plain


def cut(text: str) -> tuple[list[str], list[int], list[str], list[str]]:
    """N-grams of characters with the words that they belong to, words, and pairs."""
    padded = f" {plain(text)} "
    letters, owners = [], []
    for n in SIZES:
        for i in range(len(padded) - n + 1):
            gram = padded[i : i + n]
            if " " not in gram[1:-1]:
                letters.append(gram)
                owners.append(padded[: i + 1].count(" ") - 1)
    words = plain(text).split(" ")
    return letters, owners, words, [f"{a} {b}" for a, b in itertools.pairwise(words)]


def drawn(text: str) -> list[tuple[str, int]]:
    """Symbols of an outline and their words, one character after the other."""
    found: list[tuple[str, int]] = []
    word = 0
    for gap, run in itertools.groupby(text.strip(), str.isspace):
        part = "".join(run)
        if gap:
            lines = part.count("\n")
            deep = min(-(-(len(part) - lines) // 4), 7)
            found.append((f"{min(lines, 2)} lines, {deep} deep" if lines else " ", word))
            word += 1
            continue
        kinds = (
            ("A" if c.isupper() else "a") if c.isalpha() else "0" if c.isdigit() else c
            for c in part
        )
        found += [(kind, word) for kind, _ in itertools.groupby(kinds)]
    return found


def same_as_drawn(text: str) -> list[tuple[str, int]]:
    """The reference, each of whose symbols has one number, that no other has."""
    symbols, words = outline(text)
    expected = drawn(text)
    assert words.tolist() == [word for _, word in expected]
    pairs = set(zip(symbols.tolist(), (name for name, _ in expected), strict=True))
    assert len(pairs) == len({symbol for symbol, _ in pairs}) == len({name for _, name in pairs})
    return expected


def test_an_outline_is_what_it_says() -> None:
    text = "  def getValue(x):\n        return 1_000 -- 20\n\n# Ende; ÄRGER, 漢字 «so»"
    names = [name for name, _ in same_as_drawn(text)]
    assert names[:9] == ["a", " ", "a", "A", "a", "(", "a", ")", ":"]
    assert names[9:17] == ["1 lines, 2 deep", "a", " ", "0", "_", "0", " ", "-"]
    assert names[-8:] == ["A", ",", " ", "a", " ", "«", "a", "»"]


@given(st.text(st.sampled_from("ab BC\n \t,.;_0189é") | st.characters(), max_size=60))
def test_outlines_are_those_of_the_reference(text: str) -> None:
    expected = same_as_drawn(text)
    counts = [max(0, len(expected) - n + 1) for n in OUTLINED]
    found = grams(text)
    assert found.places.tolist() == [w for n in counts for _, w in expected[:n]]
    assert len(found.outlines) == sum(counts)
    assert all(place < len(found.words) for place in found.places)


def test_texts_of_one_outline_have_the_same_n_grams() -> None:
    a, b = grams("if one(x):\n    go(Up, 10)"), grams("to try(z):\n    be(Good, 7)")
    assert (a.outlines == b.outlines).all()
    assert len(np.intersect1d(a.words, b.words)) == 0
    c = grams("if one(x):\n        go(Up, 10)")  # deeper
    assert 0 < (a.outlines == c.outlines).mean() < 1


def test_each_n_gram_has_a_bucket_of_its_own_wherever_it_stands() -> None:
    text = "Could you  transfer $20 from my savings to MY checking, 漢字 é 😀😀 transfer"
    letters, owners, words, pairs = cut(text)
    found = grams(text)
    assert found.owners.tolist() == owners
    seen: dict[tuple[int, str], int] = {}
    kinds = [(len(g), g) for g in letters] + [(101, w) for w in words] + [(102, p) for p in pairs]
    buckets = [*found.characters, *found.words, *found.pairs]
    for kind, bucket in zip(kinds, buckets, strict=True):
        assert seen.setdefault(kind, int(bucket)) == bucket
        assert 0 <= bucket < 1 << BITS
    assert len(set(seen.values())) > 0.99 * len(seen)


@given(st.text(max_size=60))
def test_counts_are_those_of_the_reference(text: str) -> None:
    found = grams(text)
    if not plain(text):
        assert all(len(part) == 0 for part in vars(found).values())
        return
    letters, owners, words, pairs = cut(text)
    counts = len(found.characters), len(found.words), len(found.pairs)
    assert counts == (len(letters), len(words), len(pairs))
    assert found.count == sum(counts) + len(found.outlines)
    assert found.owners.tolist() == owners


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_nothing_has_none(text: str) -> None:
    assert isinstance(grams(text), Grams)
    assert not len(grams(text).characters)


def test_very_long_texts_are_looked_at_up_to_an_end() -> None:
    assert len(grams("word " * 100_000).words) < 20_000


def test_case_and_space_make_no_difference() -> None:
    a, b = grams("Hello   World"), grams(" hello world\n")
    assert (a.characters == b.characters).all()
