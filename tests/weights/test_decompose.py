"""One suite over every way in which a matrix can be stored, and what each of them promises."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sprue.weights import kernels, packed, patterns
from sprue.weights.choice import Choice
from sprue.weights.coding import factors_bits, mask_bits, side_bits
from sprue.weights.decompose import decompose
from sprue.weights.grids import trellis
from sprue.weights.packed import Packed

CHOICES = {
    "rtn": Choice("int", 3, feedback=False),
    "gptq": Choice("int", 3),
    "gptq, whole rows, zeros": Choice("int", 4, group_size=None, symmetric=False),
    "gptq, rotated": Choice("int", 3, rotate="both"),
    "gptq, low rank": Choice("int", 2, group_size=32, rank=4, factor_bits=4),
    "svd": Choice("none", rank=6),
    "nothing": Choice("none"),
    "caldera": Choice("trellis", 4, rotate="both", rank=2, factor_bits=4, state_bits=9),
    "trellis": Choice("trellis", 3, state_bits=9),
    "trellis, inputs rotated": Choice("trellis", 3, rotate="in", state_bits=9),
    "trellis, no feedback": Choice("trellis", 3, feedback=False, state_bits=9),
    "best": Choice("trellis", 3, rank=None, factor_bits=None, state_bits=9),
    "raw": Choice("raw"),
}
ZEROS = {
    "wanda": Choice("raw", feedback=False, pattern="unstructured", sparsity=0.5),
    "sparsegpt, 2:4": Choice("raw", pattern="2:4", zeros="sweep"),
    "jointly": Choice("raw", pattern="unstructured", sparsity=0.5),
    "jointly, low rank": Choice("raw", pattern="2:4", rank=2, factor_bits=4),
    "jointly, gptq": Choice("int", 4, pattern="2:4"),
    "sweep, gptq": Choice("int", 4, pattern="unstructured", sparsity=0.5, zeros="sweep"),
    "blocks": Choice("raw", pattern="4x2", sparsity=0.5),
    "slim": Choice("trellis", 4, rank=2, factor_bits=4, pattern="2:4", state_bits=9),
    "slim, best rank": Choice(
        "trellis", 4, rank=None, factor_bits=None, pattern="2:4", state_bits=9
    ),
}
CHOICES |= ZEROS
TRELLIS = [n for n, choice in CHOICES.items() if choice.grid == "trellis" and n not in ZEROS]
# what ignores the calibration
BLIND = {"rtn", "nothing", "raw"}


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _moment(width: int, seed: int = 1, decay: float = 1.0) -> Tensor:
    """Inputs whose principal components have the variances 1 / k^decay."""
    Q = torch.linalg.qr(_normal(width, width, seed=seed).double())[0]
    return ((Q * torch.arange(1, width + 1).double() ** -decay) @ Q.T).float()


def _weights(out: int, width: int, seed: int = 0) -> Tensor:
    """Normal weights with a part of rank 3 in them."""
    plain = _normal(out, width, seed=seed)
    return plain + 2 * _normal(out, 3, seed=seed + 1) @ _normal(3, width, seed=seed + 2) / 3**0.5


def _roomy(choice: Choice) -> Choice:
    """The same with bits for the steps and rates of a tiny matrix."""
    return choice.with_bits(16) if choice.grid == "trellis" else choice


def _dense(p: Packed) -> Tensor:
    return packed.dense(p.meta, p.tensors)


def _loss(W: Tensor, p: Packed, H: Tensor, G: Tensor | None = None) -> float:
    """sum_r G_r (D H D^T)_rr in float64."""
    D = W.double().numpy() - _dense(p).double().numpy()
    rows = np.einsum("ri,ij,rj->r", D, H.double().numpy(), D)
    return float((rows * (1 if G is None else G.double().numpy())).sum())


def _same(a: Packed, b: Packed) -> bool:
    alike = a.meta == b.meta and a.tensors.keys() == b.tensors.keys()
    return alike and all(torch.equal(a.tensors[n], b.tensors[n]) for n in a.tensors)


@pytest.mark.parametrize("name", CHOICES)
def test_the_input_is_untouched_and_the_result_repeats(name: str) -> None:
    W, H, G = _weights(40, 48), _moment(48), _normal(40).abs()
    before = [t.clone() for t in (W, H, G)]
    state = torch.random.get_rng_state()
    once, twice = (decompose(W, H, CHOICES[name], 3, G) for _ in range(2))
    assert _same(once, twice)
    assert once.error == twice.error
    assert all(torch.equal(a, b) for a, b in zip(before, (W, H, G), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", CHOICES)
def test_threads_do_not_change_the_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trellis, "SEGMENT", 16)
    W, H = _weights(60, 64), _moment(64)
    one, two = (decompose(W, H, _roomy(CHOICES[name]), threads=n) for n in (1, 2))
    assert _same(one, two)


@pytest.mark.parametrize("name", CHOICES)
def test_every_dtype_is_taken(name: str) -> None:
    H, choice = _moment(30), _roomy(CHOICES[name])
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        W = _weights(24, 30).to(dtype)
        p = decompose(W, H, choice)
        if choice.grid == "raw":
            kept = torch.float32 if dtype == torch.float64 else dtype
            assert p.tensors["weight" if name == "raw" else "values"].dtype == kept
            assert name != "raw" or torch.equal(p.tensors["weight"], W.to(kept))
        else:
            assert _same(p, decompose(W.float(), H, choice))


@pytest.mark.parametrize("name", CHOICES)
def test_parameters_and_views_are_taken(name: str) -> None:
    W, H, choice = _weights(24, 30), _moment(30), _roomy(CHOICES[name])
    p = decompose(W, H, choice)
    assert _same(p, decompose(W.T.contiguous().T, H, choice))
    assert _same(p, decompose(torch.nn.Parameter(W), H.requires_grad_(), choice))


@pytest.mark.parametrize("name", CHOICES)
def test_the_error_is_an_independent_float64_figure(name: str) -> None:
    W, H = _weights(65, 129), _moment(129)
    p = decompose(W, H, CHOICES[name])
    nothing = Packed(p.shape, {"grid": "none", "shape": list(p.shape)}, {}, 1.0)
    # W - W^ and its product with H are float32; the sum of them is not
    assert p.error == pytest.approx(_loss(W, p, H) / _loss(W, nothing, H), rel=1e-5)
    assert p.shape == (65, 129)
    assert p.bits == 8 * sum(t.numel() * t.element_size() for t in p.tensors.values())


def test_the_error_is_right_where_nearly_all_of_it_cancels() -> None:
    """Feedback leaves errors where inputs are not: a sum of large products that nearly cancel."""
    v = _normal(96, seed=4)
    H = torch.outer(v, v) + 1e-6 * torch.eye(96)
    W = _normal(64, 96)
    for name in ("gptq", "trellis", "best"):
        p = decompose(W, H, CHOICES[name])
        whole = float(((W.double() @ H.double()) * W.double()).sum())
        assert p.error < 1e-3
        # float32 rounds D H by 2^-24 |D| |H|, over some 100 terms: 1e-7 of what is not cancelled
        assert p.error == pytest.approx(_loss(W, p, H) / whole, abs=1e-7)


@pytest.mark.parametrize("name", CHOICES)
def test_stored_and_read_back(name: str) -> None:
    W, H = _weights(65, 48), _moment(48)
    p = decompose(W, H, CHOICES[name])
    layout = json.loads(json.dumps(packed.layout(p)))
    buffers = packed.empty_tensors(layout)
    assert buffers.keys() == p.tensors.keys()
    for tensor, buffer in ((p.tensors[n], buffers[n]) for n in buffers):
        assert (buffer.shape, buffer.dtype) == (tensor.shape, tensor.dtype)
        buffer.copy_(tensor)
    W_hat = _dense(p)
    assert torch.equal(packed.dense(layout, buffers), W_hat)
    x, ids = _normal(3, 48, seed=9), torch.tensor([[64, 0], [7, 7]])
    # float32, summed in another order, and through two rotations
    y = packed.matmul(layout, buffers, x)
    torch.testing.assert_close(y, x @ W_hat.T, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(packed.rows(layout, buffers, ids), W_hat[ids], rtol=1e-4, atol=1e-5)
    assert all("." not in n for n in p.tensors)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(CHOICES)), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_every_shape(name: str, out: int, width: int, seed: int) -> None:
    _check_shape(name, out, width, seed)


@pytest.mark.parametrize("name", CHOICES)
def test_one_row_one_column_and_odd_sizes(name: str) -> None:
    for out, width in ((1, 1), (1, 100), (100, 1), (7, 13), (129, 65)):
        _check_shape(name, out, width, 0)


def _check_shape(name: str, out: int, width: int, seed: int) -> None:
    """What is stored is near W; or 16 bits a weight do not hold the steps of so few."""
    W, H, choice = _weights(out, width, seed), _moment(width), _roomy(CHOICES[name])
    left = 16 - _beside(choice, (out, width)) if choice.grid == "trellis" else 16.0
    if left < 0:
        with pytest.raises(ValueError, match=rf"\[{out}, {width}\]"):
            decompose(W, H, choice, seed)
    if left < 10:  # may go to the steps of rows that differ much
        return
    p = decompose(W, H, choice, seed)
    W_hat = _dense(p)
    assert W_hat.shape == W.shape
    assert torch.isfinite(W_hat).all()
    # rounding at 3 bits leaves 0.04 of a normal weight (Max 1960) when many share a scale
    bound = {"nothing": 1 + 1e-6, "svd": 1}.get(name, 0.1 if name not in ZEROS else 1)
    assert 0 <= p.error < bound
    if choice.grid == "trellis":
        assert p.bits_per_weight <= 16
    x = _normal(2, width, seed=seed)
    torch.testing.assert_close(
        packed.matmul(p.meta, p.tensors, x), x @ W_hat.T, rtol=1e-3, atol=1e-3
    )


def _beside(choice: Choice, shape: tuple[int, int]) -> float:
    """Bits a weight that a trellis and its factors take beside the codes; all rows alike."""
    rank = min(choice.rank or 0, *shape)
    mask = mask_bits(shape, patterns.parse(choice.pattern)) if choice.pattern else 0
    return mask + side_bits(shape, 0) + factors_bits(shape, rank, choice.factor_bits or 8)


@pytest.mark.parametrize("name", CHOICES)
def test_a_zero_matrix_stays_zero(name: str) -> None:
    p = decompose(torch.zeros(64, 70), _moment(70), CHOICES[name])
    assert not _dense(p).any()
    assert p.error == 0


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", [0.5, -3e-3])
def test_a_constant_matrix(name: str, value: float) -> None:
    p = decompose(torch.full((64, 70), value), _moment(70), CHOICES[name])
    if name == "nothing":
        assert p.error == 1
    elif name in ZEROS:
        assert p.error < 0.6  # a half of it is gone
    elif CHOICES[name].rank == 0 and (CHOICES[name].rotate == "both" or name in TRELLIS):
        # one value, or one large among zeros: no better than a normal source, 1.2 * 4^-3 and some
        assert p.error < 0.03
    else:
        assert p.error < 1e-3


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("dead", ["rows", "columns", "inputs"])
def test_dead_rows_columns_and_inputs(name: str, dead: str) -> None:
    W, H = _weights(64, 70), _moment(70)
    if dead == "rows":
        W[::3] = 0
    elif dead == "columns":
        W[:, ::3] = 0
    else:
        H[::3] = 0
        H[:, ::3] = 0
    p = decompose(W, H, CHOICES[name])
    alive = decompose(_weights(64, 70), _moment(70), CHOICES[name])
    assert torch.isfinite(_dense(p)).all()
    # a symmetric integer grid does not hold 0: what is 0 costs as much as the rest
    assert p.error <= 2 * alive.error + 1e-12
    if name in TRELLIS:
        assert p.bits_per_weight <= CHOICES[name].bits


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("kind", ["zero", "rank 1", "huge", "tiny"])
def test_moments_that_say_little(name: str, kind: str) -> None:
    """No input seen, one input seen, units far from 1: W^ is still near W."""
    v = _normal(70, seed=3)
    H = {
        "zero": torch.zeros(70, 70),
        "rank 1": torch.outer(v, v),
        "huge": _moment(70) * 1e20,
        "tiny": _moment(70) * 1e-20,
    }[kind]
    W = _weights(64, 70)
    p = decompose(W, H, CHOICES[name])
    assert math.isfinite(p.error)
    if name not in ("nothing", "svd"):
        far = 0.7 if name in ZEROS else 0.2
        assert float((_dense(p) - W).square().mean() / W.square().mean()) < far
    if kind == "rank 1" and name not in {*BLIND, "wanda"}:
        # only the outputs for this one input count, and feedback corrects them
        assert p.error < 0.01


@pytest.mark.parametrize("name", [n for n in CHOICES if n != "raw"])
def test_the_unit_of_the_moment_changes_nothing(name: str) -> None:
    W, H = _weights(64, 70), _moment(70)
    plain = decompose(W, H, CHOICES[name])
    for k in (-40, 40):
        assert _same(plain, decompose(W, H * 2.0**k, CHOICES[name]))


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_holds_no_numbers_is_refused(name: str, bad: float) -> None:
    W, H = _weights(8, 10), _moment(10)
    broken = W.clone()
    broken[3, 4] = bad
    with pytest.raises(ValueError, match="the weights hold NaN or infinity"):
        decompose(broken, H, CHOICES[name])
    H[2, 2] = bad
    with pytest.raises(ValueError, match="second moment of the inputs holds NaN or infinity"):
        decompose(W, H, CHOICES[name])


@pytest.mark.parametrize("name", CHOICES)
def test_what_does_not_fit_is_refused(name: str) -> None:
    W, H, choice = _weights(8, 10), _moment(10), CHOICES[name]
    for shape in ((0, 10), (8, 0), (80,)):
        with pytest.raises(ValueError, match=r"expected a matrix \[out, in\], received"):
            decompose(torch.zeros(shape), H, choice)
    with pytest.raises(ValueError, match=r"expected H \[10, 10\], received \[8, 8\]"):
        decompose(W, _moment(8), choice)
    with pytest.raises(ValueError, match="-1 for a mean diagonal"):
        decompose(W, -torch.eye(10), choice)
    lopsided = H.clone()
    lopsided[0, 9] += 1
    with pytest.raises(ValueError, match="not symmetric"):
        decompose(W, lopsided, choice)
    with pytest.raises(ValueError, match=r"expected 8 importances, received \[10\]"):
        decompose(W, H, choice, importance=torch.ones(10))
    for value in (-1.0, math.nan):
        with pytest.raises(ValueError, match="importances must be finite and not negative"):
            decompose(W, H, choice, importance=torch.full((8,), value))
    with pytest.raises(ValueError, match=r"the weights reach 1e\+20"):
        decompose(W * 0 + 1e20, H, choice)


@pytest.mark.parametrize("bits", [0.1, 0.2])
@pytest.mark.parametrize("rank", [0, None])
def test_bits_that_do_not_hold_the_steps_are_refused(bits: float, rank: int | None) -> None:
    with pytest.raises(ValueError, match=rf"{bits:.3f} bits a weight do not even .*\[64, 70\]"):
        decompose(_weights(64, 70), _moment(70), Choice("trellis", bits, rank=rank, state_bits=9))


def test_bits_that_do_not_hold_the_factors_are_refused() -> None:
    choice = Choice("trellis", 2, rank=30, factor_bits=8, state_bits=9)
    with pytest.raises(
        ValueError, match=r"rank 30 take 7\.\d+ bits .* 2\.000 were given: .* lower"
    ):
        decompose(_weights(64, 70), _moment(70), choice)


@pytest.mark.parametrize("kind", ["plain", "rows", "columns", "outliers"])
@pytest.mark.parametrize("shape", [(64, 64), (72, 200)])
@pytest.mark.parametrize("name", TRELLIS)
def test_no_more_bits_than_were_given(name: str, shape: tuple[int, int], kind: str) -> None:
    """However far apart rows and columns lie: over four decades here."""
    W, H = _weights(*shape), _moment(shape[1], decay=1.5)
    if kind == "rows":
        W *= torch.logspace(-3, 1, shape[0])[:, None]
    if kind == "columns":
        W *= torch.logspace(1, -3, shape[1])
    if kind == "outliers":
        W[::17, ::5] *= 1e3
    for bits in (1.25, 5.0):
        p = decompose(W, H, CHOICES[name].with_bits(bits))
        stored = 8 * sum(t.numel() * t.element_size() for t in p.tensors.values())
        assert stored <= bits * shape[0] * shape[1]
        # steps and rates are assumed to take 16 bits a column: what they do not take is left over
        assert stored >= (0.92 * bits - 16 / shape[0]) * shape[0] * shape[1]


def test_a_stated_rank_is_stored_and_counted() -> None:
    W, H = _weights(64, 70), _moment(70)
    p = decompose(W, H, Choice("trellis", 3, rank=5, factor_bits=4, state_bits=9))
    assert p.tensors["l_scale"].shape == (5, 1)
    assert p.tensors["r_scale"].shape == (5, 1)
    parts = sum(8 * t.nbytes for n, t in p.tensors.items() if n[:2] in ("l_", "r_"))
    assert parts == factors_bits((64, 70), 5, 4) * 64 * 70


def test_a_rank_is_taken_where_it_pays_and_only_there() -> None:
    """4 strong components of 256; and none."""
    strong = _normal(256, 4, seed=7) @ _normal(4, 200, seed=8) + 0.2 * _normal(256, 200)
    H, choice = _moment(200), Choice("trellis", 2.5, rank=None, factor_bits=None, state_bits=9)
    found = decompose(strong, H, choice)
    assert found.tensors["l_scale"].shape[0] >= 4
    fixed = Choice("trellis", 2.5, state_bits=9)
    assert found.error < 0.5 * decompose(strong, H, fixed).error
    plain = decompose(_normal(256, 200), torch.eye(200), choice)
    assert "l_scale" not in plain.tensors
    assert _same(plain, decompose(_normal(256, 200), torch.eye(200), fixed))


def test_refits_never_hurt_and_pay() -> None:
    W, H, G = _weights(64, 70), _moment(70), torch.logspace(-1, 1, 64)
    losses = [
        _loss(W, decompose(W, H, Choice("int", 2, rank=4, refits=n), importance=G), H, G)
        for n in (0, 1, 3)
    ]
    assert losses[1] < 0.99 * losses[0]
    assert losses[2] <= losses[1] * (1 + 1e-6)


@pytest.mark.parametrize("decay", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ["gptq", "trellis", "gptq, rotated"])
def test_feedback_beats_no_feedback_on_its_own_objective(name: str, decay: float) -> None:
    W, H = _normal(96, 160), _moment(160, decay=decay)
    fed = CHOICES[name]
    fields = {**fed.as_dict(), "feedback": False}
    without = decompose(W, H, Choice.from_dict(fields))
    gain = {0.5: 0.97, 1.0: 0.85, 2.0: 0.4}[decay]
    assert decompose(W, H, fed).error < gain * without.error


@pytest.mark.parametrize("name", CHOICES)
def test_the_result_follows_the_calibration(name: str) -> None:
    W = _weights(64, 70)
    a, b = (decompose(W, _moment(70, seed=s), CHOICES[name]) for s in (1, 2))
    assert _same(a, b) == (name in BLIND)
    if name not in BLIND:
        # each serves its own inputs best
        H = _moment(70, seed=1)
        assert _loss(W, a, H) < _loss(W, b, H)


@pytest.mark.parametrize("name", ["trellis", "trellis, inputs rotated", "best", "svd"])
def test_importance_lowers_the_weighted_error(name: str) -> None:
    W, H = _weights(128, 70), _moment(70)
    G = torch.logspace(-1.5, 1.5, 128)[torch.randperm(128, generator=torch.Generator())]
    plain, weighted = (decompose(W, H, CHOICES[name], importance=g) for g in (None, G))
    assert _loss(W, weighted, H, G) < 0.9 * _loss(W, plain, H, G)
    # any multiple of it says the same, also 1e-15 nats
    assert _same(weighted, decompose(W, H, CHOICES[name], importance=G * 2.0**-50))
    even = decompose(W, H, CHOICES[name], importance=torch.full((128,), 0.3))
    assert _same(plain, even)
    assert _same(plain, decompose(W, H, CHOICES[name], importance=torch.zeros(128)))


def test_importance_of_rows_says_nothing_about_rotated_rows() -> None:
    W, H, G = _weights(128, 70), _moment(70), torch.logspace(-2, 2, 128)
    choice = Choice("trellis", 3, rotate="both", state_bits=9)
    assert _same(decompose(W, H, choice), decompose(W, H, choice, importance=G))


def test_seeds_turn_rotations() -> None:
    W, H = _weights(64, 70), _moment(70)
    for name, choice in CHOICES.items():
        same = _same(decompose(W, H, choice, 1), decompose(W, H, choice, 2))
        # a sketch of another seed finds nearly the same factors
        assert same or choice.rotate != "none" or choice.rank != 0, name
        if choice.rotate != "none":
            assert not same, name


@pytest.mark.skipif(kernels.library() is None, reason="the C kernels were not built")
@pytest.mark.parametrize("name", [*TRELLIS, "slim", "slim, best rank"])
def test_without_the_library_the_same_is_stored(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    W, H, choice = _weights(40, 30), _moment(30), _roomy(CHOICES[name]).with_bits(5)
    built = decompose(W, H, choice)
    monkeypatch.setattr(kernels, "library", lambda: None)
    assert _same(built, decompose(W, H, choice))


def test_a_tenth_of_a_bit_is_a_tenth_of_a_bit() -> None:
    """Rates are fractions: more bits, less error, in small steps."""
    W, H = _weights(128, 160), _moment(160)
    found = [decompose(W, H, Choice("trellis", b / 10, state_bits=9)) for b in range(15, 26)]
    errors = [p.error for p in found]
    assert errors == sorted(errors, reverse=True)
    # 6 dB a bit, and somewhat less where columns are not worth coding
    assert 0.5 * math.log2(errors[0] / errors[-1]) == pytest.approx(1, abs=0.15)


def test_matrices_of_a_real_size_are_cut_into_segments() -> None:
    W, H = _normal(2100, 20), _moment(20)
    p = decompose(W, H, Choice("trellis", 2.5, state_bits=9))
    assert p.meta["segments"] == 2
    assert p.bits_per_weight <= 2.5
    # as good as one segment of half the rows: nothing is lost where two meet
    half = decompose(W[:1050], H, Choice("trellis", 2.5, state_bits=9))
    assert p.error == pytest.approx(half.error, rel=0.05)
