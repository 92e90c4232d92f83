"""Codes of 1 to 8 bits, packed into bytes without gaps.

A width that does not divide 8 is stored as planes whose widths do (3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2,
7 = 4 + 2 + 1), so that no code straddles two bytes. Within a plane of m bytes, byte j holds the
codes j, j + m, j + 2m ...: unpacking a run of codes is then a shift and a mask of a run of bytes,
which vectorizes, where neighbours in one byte would not. Only the last byte of a plane may hold
unused bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PLANES = {
    1: (1,),
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    7: (4, 2, 1),
    8: (8,),
}


def packed_bytes(count: int, bits: int) -> int:
    """The bytes that `count` codes of `bits` bits take."""
    return sum(_plane_bytes(count, width) for width in _widths(bits))


def pack(codes: Tensor, bits: int) -> Tensor:
    """Packs integer codes in [0, 2**bits), any shape, read in row-major order.

    Returns:
        uint8 [packed_bytes(codes.numel(), bits)], on the codes' device.

    Raises:
        ValueError: `bits` is not in 1 .. 8, or a code does not fit.
    """
    widths = _widths(bits)
    flat = codes.reshape(-1)
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < 2**bits:
        raise ValueError(
            f"codes of {bits} bits must lie in [0, {2**bits - 1}], "
            f"received [{int(flat.min())}, {int(flat.max())}]"
        )
    flat = flat.to(torch.uint8)
    planes, offset = [], 0
    for width in widths:
        planes.append(_pack_plane((flat >> offset) & (2**width - 1), width))
        offset += width
    return torch.cat(planes)


def unpack(
    packed: Tensor, bits: int, total: int, start: int = 0, stop: int | None = None
) -> Tensor:
    """The codes `start` .. `stop` (default: all) of the `total` that were packed.

    Returns:
        uint8 [stop - start], on the packed tensor's device; of 8 bits, a view of it.

    Raises:
        ValueError: the packed tensor has not the size that `total` codes take.
    """
    stop = total if stop is None else stop
    if bits == 8 and packed.numel() == total:
        return packed[start:stop]
    if stop - start == total:
        return _unpack_all(packed, bits, total)
    codes = torch.empty(stop - start, dtype=torch.uint8, device=packed.device)
    for plane, width, offset in _planes(packed, bits, total):
        _unpack_plane(plane, width, offset, start, codes)
    return codes


def gather(packed: Tensor, bits: int, total: int, index: Tensor) -> Tensor:
    """The codes at `index` (int64, any shape, each in [0, total)); uint8 of the index's shape."""
    codes = torch.zeros(index.shape, dtype=torch.uint8, device=packed.device)
    for plane, width, offset in _planes(packed, bits, total):
        size = max(len(plane), 1)
        shift = (index // size * width).to(torch.uint8)
        codes |= ((plane[index % size] >> shift) & (2**width - 1)) << offset
    return codes


def gather_rows(packed: Tensor, bits: int, shape: tuple[int, int], ids: Tensor) -> Tensor:
    """The rows `ids` (int64 [n]) of a packed code matrix of this shape; uint8 [n, shape[1]]."""
    count, width_in = shape
    total = count * width_in
    sizes = [_plane_bytes(total, width) for width in _widths(bits)]
    if any(size % width_in for size in sizes):
        columns = torch.arange(width_in, device=packed.device)
        return gather(packed, bits, total, ids[:, None] * width_in + columns)
    codes = torch.zeros(len(ids), width_in, dtype=torch.uint8, device=packed.device)
    for plane, width, offset in _planes(packed, bits, total):
        # A row starts at a byte boundary of the plane and lies in one slot: no index per code.
        table = plane.view(-1, width_in)
        shift = (ids // len(table) * width).to(torch.uint8)[:, None]
        codes |= ((table[ids % len(table)] >> shift) & (2**width - 1)) << offset
    return codes


def _widths(bits: int) -> tuple[int, ...]:
    if bits not in _PLANES:
        raise ValueError(f"codes have 1 to 8 bits, received {bits}")
    return _PLANES[bits]


def _plane_bytes(count: int, width: int) -> int:
    return -(-count * width // 8)


def _planes(packed: Tensor, bits: int, total: int) -> list[tuple[Tensor, int, int]]:
    """(bytes, width, the position of its lowest bit in the code) of every plane."""
    if packed.numel() != packed_bytes(total, bits):
        raise ValueError(
            f"{total} codes of {bits} bits take {packed_bytes(total, bits)} bytes, "
            f"received {packed.numel()}"
        )
    planes, begin, offset = [], 0, 0
    for width in _widths(bits):
        size = _plane_bytes(total, width)
        planes.append((packed[begin : begin + size], width, offset))
        begin, offset = begin + size, offset + width
    return planes


def _pack_plane(values: Tensor, width: int) -> Tensor:
    size, slots = _plane_bytes(len(values), width), 8 // width
    padded = torch.zeros(slots * size, dtype=torch.uint8, device=values.device)
    padded[: len(values)] = values
    plane = torch.zeros(size, dtype=torch.uint8, device=values.device)
    for slot, part in enumerate(padded.view(slots, size)):
        plane |= part << (slot * width)
    return plane


def _unpack_all(packed: Tensor, bits: int, total: int) -> Tensor:
    """All codes, in a few operations a plane: small matrices wait for little else."""
    codes = packed
    for plane, width, offset in _planes(packed, bits, total):
        shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)
        values = (plane >> shifts[:, None]).bitwise_and_(2**width - 1).view(-1)[:total]
        codes = values if offset == 0 else codes.bitwise_or_(values << offset)
    return codes


def _unpack_plane(plane: Tensor, width: int, offset: int, start: int, codes: Tensor) -> None:
    """Adds the plane's bits of the codes from `start` on to `codes`; offset 0 initializes."""
    size, stop = len(plane), start + len(codes)
    begin = start
    while begin < stop:
        slot = begin // size
        end = min(stop, (slot + 1) * size)
        source = plane[begin - slot * size : end - slot * size]
        target = codes[begin - start : end - start]
        if offset == 0:
            torch.bitwise_right_shift(source, slot * width, out=target)
            target.bitwise_and_(2**width - 1)
        else:
            target |= ((source >> (slot * width)) & (2**width - 1)) << offset
        begin = end
