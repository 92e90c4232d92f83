"""What a stronger model gains on a request."""

from __future__ import annotations

import numpy as np
import pytest

from sprue.errors import InputError
from sprue.fleet.gain import Gain, recovered, shape

pytest.importorskip("sklearn", reason="the extra fleet is not installed")


def requests(count: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Long ones and those about proofs are beyond the weaker model."""
    rng = np.random.default_rng(seed)
    texts, weak = [], []
    for _ in range(count):
        kind = str(rng.choice(["poem", "proof", "recipe"]))
        length = int(rng.integers(3, 60))
        words = rng.choice(["alpha", "beta", "gamma", "delta", "omega", "sigma"], length)
        texts.append(f"write a {kind} of {' '.join(words)}")
        weak.append(rng.random() > 0.1 + 0.5 * (kind == "proof") + 0.3 * (length > 30))
    strong = rng.random(count) < 0.95
    return texts, np.array(weak, float), strong.astype(float)


def test_what_is_beyond_the_weaker_model_comes_first() -> None:
    texts, weak, strong = requests(600, 0)
    gain = Gain.train(texts[:400], (strong - weak)[:400])
    told = [gain.expected(text) for text in texts[400:]]
    assert recovered(told, weak[400:], strong[400:]) > 0.62
    proof, poem = (
        np.mean([v for v, t in zip(told, texts[400:], strict=True) if k in t])
        for k in ("proof", "poem")
    )
    assert proof > poem + 0.2


def test_the_same_seed_gives_the_same() -> None:
    texts, weak, strong = requests(100, 1)
    a, b = (Gain.train(texts, strong - weak, seed=3) for _ in range(2))
    assert [a.expected(t) for t in texts] == [b.expected(t) for t in texts]


def test_apgr_of_what_is_known_by_hand() -> None:
    weak, strong = [0, 1, 0, 1], [1, 1, 1, 1]
    # the two that gain first: 0, 1/2, 1, 1, 1 of the gap
    assert recovered([1, 0, 1, 0], weak, strong) == pytest.approx((0.25 + 0.75 + 1 + 1) / 4)
    assert recovered([0, 1, 0, 1], weak, strong) == pytest.approx(0.25)
    rng = np.random.default_rng(0)
    random = [recovered(rng.random(400), np.zeros(400), rng.random(400)) for _ in range(50)]
    assert np.mean(random) == pytest.approx(0.5, abs=0.01)


def test_shapes_of_odd_texts_are_finite() -> None:
    for text in ("", "1e999 99999999999999999999999999", "$1,000,000.5 and 3/4 of 7%", "😀"):
        assert np.isfinite(shape(text)).all()


def test_too_little_to_learn_from() -> None:
    with pytest.raises(InputError, match="at least 50 requests"):
        Gain.train(["x"], [1.0])
    with pytest.raises(InputError, match="no gap"):
        recovered([0.1, 0.2], [1, 0], [0, 1])
