"""Hashed n-grams against a plain reference that cuts strings."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprue.fleet.features import BITS, SIZES, Grams, grams, plain


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
