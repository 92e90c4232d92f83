"""New needs among texts: what was planted is found, and the same every time."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from sprue.usage import clusters
from sprue.usage.needs import find, least_of, telling
from sprue.usage.totals import Total

PLANTED = {
    "renew my passport before {} in {}": 60,
    "write a wedding speech for {} and {}": 40,
    "why does my sourdough {} not rise {}": 25,
}
FILLERS = [
    *("anna", "bert", "cora", "dave", "emil", "may", "june", "july", "rome", "oslo", "paris"),
    *("friday", "monday", "tonight", "tomorrow", "overnight", "slowly", "again", "properly"),
]


def texts(seed: int = 0, noise: int = 60) -> list[str]:
    draw = random.Random(seed)
    found = [
        sentence.format(*draw.choices(FILLERS, k=2))
        for sentence, count in PLANTED.items()
        for _ in range(count)
    ]
    letters = "abcdefghijklmnopqrstuvwxyz"
    for _ in range(noise):
        words = ("".join(draw.choices(letters, k=draw.randrange(3, 10))) for _ in range(7))
        found.append(" ".join(words))
    draw.shuffle(found)
    return found


def ones(some: list[str]) -> list[Total]:
    return [Total(requests=1, tokens_in=len(text)) for text in some]


def test_planted_needs_are_found_and_noise_is_not() -> None:
    some = texts()
    found = find(some, ones(some), of=len(some))
    assert found.least == 10
    assert len(found.found) == 3
    for need, (sentence, count) in zip(found.found, PLANTED.items(), strict=True):
        start = sentence.partition("{")[0]
        assert all(example.startswith(start) for example in need.examples)
        assert len(need.examples) == 3
        assert 0.85 * count <= need.texts <= count
        assert set(need.words) & set(sentence.split())
        assert not {"my", "a", "for", "in", "and"} & set(need.words)
        assert need.total.requests == need.texts
    assert found.scattered == len(some) - sum(need.texts for need in found.found)
    assert sum(n.total.tokens_in for n in found.found) < sum(map(len, some))


def test_the_same_every_time_and_in_any_order() -> None:
    some = texts()
    first = find(some, ones(some), of=5_000, without=7)
    assert first == find(some, ones(some), of=5_000, without=7)
    assert (first.of, first.without, first.scale) == (5_000, 7, 5_000 / len(some))
    turned = find(some[::-1], ones(some[::-1]), of=5_000)
    assert [n.words for n in turned.found] == [n.words for n in first.found]
    state = np.random.get_state()[1]
    find(some, ones(some), of=5_000)
    assert (np.random.get_state()[1] == state).all()  # the global generator is left alone


def test_a_text_that_comes_often_adds_to_its_need_and_splits_none() -> None:
    some = texts()
    often = next(text for text in some if text.startswith("renew"))
    before = find(some, ones(some), of=len(some))
    more = [*some, *[often.upper()] * 70]
    after = find(more, ones(more), of=len(more))
    starts = [[need.examples[0][:12].lower() for need in found.found] for found in (before, after)]
    assert starts[0] == starts[1]
    assert after.found[0].texts - before.found[0].texts in range(65, 76)


def test_groups_below_the_least_are_no_needs() -> None:
    some = texts()
    asked = find(some, ones(some), of=len(some), asked=35)
    assert asked.least == 35
    assert [need.words[0] in ("passport", "renew", "wedding", "speech", "write") for need in
            asked.found] == [True, True]  # fmt: skip
    assert find(some, ones(some), of=len(some), asked=150).found == ()


@pytest.mark.parametrize(
    ("sample", "of", "asked", "least"),
    [(100, 100, None, 10), (5_000, 10**6, None, 20), (100, 100, 7, 7), (5_000, 10**6, 1_000, 5),
     (5_000, 10**6, 10, 2), (0, 0, 5, 2)],
)  # fmt: skip
def test_the_least_is_counted_in_requests(
    sample: int, of: int, asked: int | None, least: int
) -> None:
    assert least_of(sample, of, asked) == least


@pytest.mark.parametrize(
    ("some", "sizes"),
    [
        ([], []),
        (["a b c"] * 3, []),
        (["hello there"] * 40, [40]),
        (["reset my password"] * 30 + ["what is the weather"] * 20, [30, 20]),
        (["🙂🙂🙂"] * 15 + ["как сбросить пароль"] * 12 + ["如何重置密码"] * 11, [15, 12, 11]),
        (["!"] * 12, [12]),
    ],
)
def test_few_same_and_foreign_texts(some: list[str], sizes: list[int]) -> None:
    found = find(some, ones(some), of=len(some))
    assert [need.texts for need in found.found] == sizes


def test_nothing_that_names_a_person_is_shown() -> None:
    some = [f"send the invoice to user{i}@example.com, call +49 171 23456{i:02}" for i in range(40)]
    (need,) = find(some, ones(some), of=40).found
    assert need.examples == ("send the invoice to [email], call [phone]",)
    assert "email" not in need.words
    assert "invoice" in need.words


def test_examples_are_cut_and_long_texts_bounded() -> None:
    some = [f"{'many words ' * 100_000}{i}" for i in range(20)]
    (need,) = find(some, ones(some), of=20).found
    assert all(len(example) == 200 and example.endswith("…") for example in need.examples)


def test_the_telling_words_are_those_of_the_formula() -> None:
    inside, outside = ["tax form", "tax tax", "form", "cat"], ["cat dog"] * 3 + ["tax dog"]
    whole = inside + outside

    def z(word: str) -> float:
        """Monroe et al. 2008, equations 16, 19 and 22, for texts that hold a word."""
        prior = 10 * (sum(word in text.split() for text in whole) + 1) / (len(whole) + 2)
        y = sum(word in text.split() for text in inside)
        rest = sum(word in text.split() for text in outside)
        n, m, a0 = len(inside), len(outside), 10.0
        delta = math.log((y + prior) / (n + a0 - y - prior))
        delta -= math.log((rest + prior) / (m + a0 - rest - prior))
        return delta / math.sqrt(1 / (y + prior) + 1 / (rest + prior))

    order = sorted(("tax", "form", "cat"), key=z, reverse=True)
    assert 0 < len([word for word in order if z(word) > 0]) < 3
    found = telling([text.split() for text in inside], [text.split() for text in whole])
    assert found == tuple(word for word in order if z(word) > 0)


def test_the_same_text_lies_in_the_same_place() -> None:
    some = ["a first text", "another one", "a first text", "", "a third text"]
    weighed = clusters.weigh(some)
    places = clusters.embed(weighed)
    assert places.shape[0] == 5
    np.testing.assert_allclose(places[0], places[2])
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), [1, 0, 1, 0, 1], atol=1e-12)
    whole = weighed.toarray().astype(np.float64)
    pairs = [whole[i] @ whole[j] for i in range(5) for j in range(5) if i != j]
    assert clusters._mean_cosine(weighed) == pytest.approx(np.mean(pairs))


def test_few_dimensions_keep_what_is_near() -> None:
    some = texts(noise=0)
    places = clusters.embed(clusters.weigh(some), seed=0)
    assert places.shape[1] <= 128
    starts = np.array([text[:5] for text in some])
    same = starts[:, None] == starts[None, :]
    cosines = places @ places.T
    assert cosines[same].mean() > 0.5
    assert cosines[~same].mean() < 0.1
