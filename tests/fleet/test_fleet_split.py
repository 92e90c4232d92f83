"""Requests with several needs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from sprue.fleet.linear import Evidence
from sprue.fleet.router import Router
from sprue.fleet.split import Prices, Word, best, words_of


def test_what_stands_before_a_word() -> None:
    words = words_of("first one, second and third. Fourth\nfifth")
    assert [w.before for w in words] == ["space", "space", "joint", "joint", "joint", "end", "end"]
    assert [w.joins for w in words] == [False, False, False, True, False, False, False]


def _value(needs: tuple[int, ...], said: Evidence, words: list[Word], prices: Prices) -> float:
    total = 0.0
    for i, need in enumerate(needs):
        total += 0.0 if words[i].joins else float(said.words[i, need])
        if i:
            same = need == needs[i - 1]
            total += float(said.pairs[i, need]) if same else -getattr(prices, words[i].before)
    return total


@pytest.mark.parametrize("seed", range(20))
def test_the_best_way_is_found(seed: int) -> None:
    """Against all ways to give six words one of three classes."""
    rng = np.random.default_rng(seed)
    said = Evidence(*(rng.standard_normal((6, 3)).astype(np.float32) for _ in range(2)))
    kinds = rng.choice(["space", "joint", "end"], 6)
    words = [Word(i, i + 1, str(kind), bool(rng.random() < 0.2)) for i, kind in enumerate(kinds)]
    prices = Prices(1.5, 0.7, 0.2)
    found = tuple(best(said, words, prices))
    every = itertools.product(range(3), repeat=6)
    top = max(_value(needs, said, words, prices) for needs in every)
    assert _value(found, said, words, prices) == pytest.approx(top, abs=1e-5)


def test_two_needs_are_found_and_one_stays_whole(router: Router, texts: Any) -> None:
    rng = np.random.default_rng(5)
    names = list(texts.topics)
    both = whole = 0
    for k in range(60):
        a, b = (names[i] for i in rng.choice(3, 2, replace=False))
        first, second = (texts.sentence(texts.topics[name], rng) for name in (a, b))
        joint = (" and ", ". ", ", ", "\n")[k % 4]
        spans = router.split(first + joint + second)
        both += [s.decision.capability for s in spans] == [a, b]
        whole += len(router.split(first)) == 1
    assert both >= 51
    assert whole >= 54


def test_spans_leave_out_what_joins_them(router: Router) -> None:
    text = "bake onion soup with garlic, and then transfer my savings account balance"
    spans = router.split(text)
    assert [text[s.start : s.end] for s in spans] == [
        "bake onion soup with garlic,",
        "transfer my savings account balance",
    ]


@pytest.mark.parametrize("text", ["and", "and, then", "bake", "", "😀 " * 50, "x" * 10_000])
def test_odd_texts_are_one_part(router: Router, text: str) -> None:
    (span,) = router.split(text)
    assert (span.start, span.end) == (0, len(text))


def test_what_is_too_long_to_look_at_stays_with_the_last_part(router: Router) -> None:
    text = "bake onion soup with garlic. " * 20 + "transfer savings account balance " * 3000
    spans = router.split(text)
    assert spans[0].start == 0
    assert spans[-1].end == len(text)
