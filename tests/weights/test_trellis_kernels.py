"""The C kernels against numpy, bit for bit, on every instruction set that this machine has."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sprue.weights import codebook, kernels, trellis_reference

STEPS = np.exp2(np.arange(-160, 81) / 8).astype(np.float32)

built = pytest.mark.skipif(kernels.library() is None, reason="the C kernels were not built")


def _block(seed: int, n: int, T: int, L: int) -> dict[str, Any]:
    """A block of columns at their hardest: of zeros, with rows of zeros or of no weight."""
    rng = np.random.default_rng(seed)
    Wt = rng.standard_normal((n, T)) * np.exp2(rng.uniform(-12, 6, (n, 1)))
    weight = np.where(rng.random(T) < rng.choice([0, 0.5]), 1e-9, rng.uniform(0.1, 4, T))
    if rng.random() < 0.5:
        Wt[:, weight < 1e-3] = 0
    if rng.random() < 0.3:
        Wt[rng.integers(n)] = 0
    U = np.triu(rng.standard_normal((n, n)) * 0.4)
    U[np.diag_indices(n)] = rng.uniform(0.1, 3, n)
    rate = rng.integers(4, 49, n)
    rate[rng.random(n) < 0.2] = -1
    return {
        "Wt": Wt.astype(np.float32),
        "U": U.astype(np.float32),
        "rate": rate.astype(np.int32),
        "steps": STEPS,
        "row": np.exp2(rng.integers(-6, 7, T) / 4).astype(np.float32),
        "weight": weight.astype(np.float32),
        "luts": codebook.values(L),
        "state": int(rng.integers(1 << L)),
    }


def _both(block: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(values, E, states, code, state) of the C and of numpy."""
    results = []
    for sweep in (kernels.sweep, trellis_reference.sweep):
        Wt = block["Wt"].copy()
        results.append((Wt, *sweep(**{**block, "Wt": Wt})))
    return results[0], results[1]


def _assert_same(block: dict[str, Any]) -> None:
    for ours, naive in zip(*_both(block), strict=True):
        # equal bytes, not equal numbers: -0.0 is not 0.0 here
        assert np.asarray(ours).tobytes() == np.asarray(naive).tobytes()


@built
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 120), st.integers(9, 12))
def test_the_sweep_equals_numpy(seed: int, n: int, T: int, L: int) -> None:
    _assert_same(_block(seed, n, T, L))


@built
@pytest.mark.parametrize("L", [14, 16])
def test_the_sweep_equals_numpy_at_many_states(L: int) -> None:
    _assert_same(_block(1, 2, 20, L))


@built
@pytest.mark.parametrize("rate", [4, 7, 8, 15, 16, 20, 24, 31, 32, 40, 48])
def test_the_sweep_equals_numpy_at_every_step_width(rate: int) -> None:
    block = _block(rate, 2, 150, 12)
    _assert_same({**block, "rate": np.full(2, rate, np.int32)})


@built
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.lists(st.integers(-1, 48).filter(lambda r: r < 0 or r >= 4), min_size=1, max_size=5),
    st.integers(1, 90),
    st.integers(0, 70),
)
def test_packing_equals_numpy(seed: int, rates: list[int], T: int, at: int) -> None:
    rng = np.random.default_rng(seed)
    rate = np.array(rates, np.int32)
    states = rng.integers(0, 1 << 12, (len(rates), T)).astype(np.uint16)
    room = (at + T * int(np.maximum(rate, 0).sum()) // 8) // 8 + 20
    ours, naive = np.zeros(room, np.uint8), np.zeros(room, np.uint8)
    count = rng.integers(0, T + 1, len(rates)).astype(np.int32)  # what a mask keeps of a column
    end = kernels.pack(states, count, rate, at, ours)
    assert end == trellis_reference.pack(states, count, rate, at, naive)
    assert end - at == sum(int(n) * r // 8 for n, r in zip(count, rates, strict=True) if r > 0)
    assert ours.tobytes() == naive.tobytes()


def test_narrower_vectors_give_the_same_bytes(
    narrow: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor without AVX-512, or without AVX2, packs the same artifact."""
    monkeypatch.setattr(kernels, "library", lambda: narrow)
    for seed in range(12):
        _assert_same(_block(seed, 3, 100, 9 + seed % 4))


@built
def test_kernels_refuse_what_is_not_contiguous() -> None:
    block = _block(0, 4, 10, 9)
    with pytest.raises(ValueError, match="contiguous"):
        kernels.sweep(**{**block, "Wt": block["Wt"][:, ::2]})


@pytest.fixture(params=["C", "numpy"])
def search(request: pytest.FixtureRequest) -> Callable[..., NDArray[np.int64]]:
    """The states of the cheapest path for x [T] from `state`, in C or numpy."""
    if request.param == "C" and kernels.library() is None:
        pytest.skip("the C kernels were not built")

    def in_c(x: Any, rate: int, weight: Any, luts: Any, state: int) -> NDArray[np.int64]:
        # a step and rows of 1: the sweep searches x itself
        one = {"steps": np.ones(1, np.float32), "row": np.ones(len(x), np.float32)}
        U, rates = np.ones((1, 1), np.float32), np.array([rate], np.int32)
        block = {"U": U, "rate": rates, "weight": weight, "luts": luts, "state": state, **one}
        return kernels.sweep(Wt=x[None].copy(), **block)[1][0].astype(np.int64)

    def in_numpy(x: Any, rate: int, weight: Any, luts: Any, state: int) -> NDArray[np.int64]:
        return trellis_reference.viterbi(x, rate, weight, luts, state)[0]

    return in_c if request.param == "C" else in_numpy


@pytest.mark.parametrize("rate", [4, 8, 12, 16, 20])
@pytest.mark.parametrize("L", [4, 5])
def test_the_path_found_is_the_best_of_all(
    search: Callable[..., NDArray[np.int64]], L: int, rate: int
) -> None:
    """Every path of a tiny trellis, tried in float64."""
    T = 6
    for seed in range(5):
        rng = np.random.default_rng(seed)
        luts = rng.standard_normal((9, 1 << L)).astype(np.float32)
        x = rng.standard_normal(T).astype(np.float32)
        weight = rng.uniform(0.2, 2, T).astype(np.float32)
        start = int(rng.integers(1 << L))
        paths, costs = _all_paths(x, rate, weight, luts, start)
        found = search(x, rate, weight, luts, start)
        which = (paths == found).all(1)
        assert which.any(), "not a path of the trellis"
        # the winner's bits that ride in a cost change it by 2^k parts in 2^24 at each step
        slack = 1 + T * 2.0 ** (max(trellis_reference.shifts(T, rate)) - 23)
        assert costs[which].min() <= costs.min() * slack


def _all_paths(
    x: Any, rate: int, weight: Any, luts: Any, start: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(states [paths, T], costs [paths]) of every path from `start`: nothing is pruned."""
    mask = luts.shape[1] - 1
    states, costs = np.empty((1, 0), np.int64), np.zeros(1)
    last = np.array([start])
    for t, k in enumerate(trellis_reference.shifts(len(x), rate)):
        last = ((last[:, None] << k) | np.arange(1 << k)).reshape(-1) & mask
        states = np.column_stack([states.repeat(1 << k, 0), last])
        off = x[t].astype(np.float64) - luts[k, last].astype(np.float64)
        costs = costs.repeat(1 << k) + float(weight[t]) * off**2
    return states, costs


def test_rates_add_up_to_the_bit() -> None:
    for rate in range(4, 49):
        for T in (1, 7, 8, 100):
            assert trellis_reference.shifts(T, rate).sum() == T * rate // 8
