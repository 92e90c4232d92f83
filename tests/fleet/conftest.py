"""Texts of made-up capabilities."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from sprue.fleet.router import Router

TOPICS = {
    "cooking": "bake onion recipe oven salt butter dinner stir pan garlic taste soup",
    "money": "transfer account savings loan bank balance deposit interest credit bill invoice fee",
    "travel": "flight hotel passport luggage train ticket airport visa trip booking seat cruise",
}
FILLERS = ("please", "can", "you", "tell", "me", "the", "my", "a", "how", "do", "i", "what", "is")
OTHERS = "galaxy neutron quark dinosaur fossil volcano glacier comet plasma enzyme algebra sonnet"


def sentence(words: str, rng: np.random.Generator) -> str:
    """A few words of a topic between others."""
    own, count = words.split(), int(rng.integers(3, 6))
    mixed = [*rng.choice(own, count, replace=False), *rng.choice(FILLERS, int(rng.integers(2, 5)))]
    return " ".join(map(str, rng.permutation(mixed)))


def sentences(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts with their topics."""
    rng = np.random.default_rng(seed)
    names = list(TOPICS)
    picked = [names[i % len(names)] for i in range(count)]
    return [(sentence(TOPICS[name], rng), name) for name in picked]


@pytest.fixture(scope="session")
def texts() -> SimpleNamespace:
    """Attributes: topics, others (words that belong to none), sentence, sentences."""
    return SimpleNamespace(topics=TOPICS, others=OTHERS, sentence=sentence, sentences=sentences)


@pytest.fixture(scope="session")
def router() -> Router:
    pytest.importorskip("sklearn", reason="the extra fleet is not installed")
    return Router.train(sentences(240, 0), seed=0)
