"""Packed codes come back as they were, whole, in part and by index."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sprue.weights import bitpack


def _codes(count: int, bits: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2**bits, (count,), generator=generator, dtype=torch.uint8)


@given(st.integers(1, 8), st.integers(0, 300), st.integers(0, 9))
def test_round_trip(bits: int, count: int, seed: int) -> None:
    codes = _codes(count, bits, seed)
    packed = bitpack.pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == bitpack.packed_bytes(count, bits)
    assert torch.equal(bitpack.unpack(packed, bits, count), codes)


@given(st.integers(1, 8), st.integers(1, 300), st.data())
def test_a_part_and_an_index(bits: int, count: int, data: st.DataObject) -> None:
    codes = _codes(count, bits)
    packed = bitpack.pack(codes, bits)
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    assert torch.equal(bitpack.unpack(packed, bits, count, start, stop), codes[start:stop])
    index = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), max_size=5)))
    index = index.to(torch.int64)
    assert torch.equal(bitpack.gather(packed, bits, count, index), codes[index])


@given(st.integers(1, 8), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_rows(bits: int, count: int, width: int, seed: int) -> None:
    codes = _codes(count * width, bits, seed).view(count, width)
    ids = torch.randint(0, count, (7,), generator=torch.Generator().manual_seed(seed))
    packed = bitpack.pack(codes, bits)
    assert torch.equal(bitpack.gather_rows(packed, bits, (count, width), ids), codes[ids])


@pytest.mark.parametrize("bits", range(1, 9))
def test_no_bit_is_wasted(bits: int) -> None:
    assert bitpack.packed_bytes(8 * 1000, bits) == bits * 1000
    for count in range(1, 200):
        # Three planes at most, and less than one byte of each is unused.
        assert 0 <= bitpack.packed_bytes(count, bits) - count * bits / 8 < 3


def test_the_bytes_are_the_documented_ones() -> None:
    # 3 bits: a plane of the low 2 bits (codes 0 2 4 in byte 0, 1 3 in byte 1), then the high bit.
    assert bitpack.pack(torch.tensor([1, 2, 3, 4, 7]), 3).tolist() == [
        1 | 3 << 2 | 3 << 4,
        2 | 0 << 2,
        1 << 3 | 1 << 4,
    ]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 3\], received \[0, 4\]"):
        bitpack.pack(torch.tensor([0, 4]), 2)
    with pytest.raises(ValueError, match="1 to 8 bits, received 9"):
        bitpack.pack(torch.tensor([0]), 9)
    with pytest.raises(ValueError, match="take 4 bytes, received 5"):
        bitpack.unpack(torch.zeros(5, dtype=torch.uint8), 4, 8)
