"""The safetensors format, read by byte ranges and written as a stream.

The library maps whole files; every page that was touched then counts as resident memory. Reading
the range of one tensor keeps the memory of a walk at one tensor, whatever the size of the file.

Format: 8 bytes n (little endian), n bytes of JSON {name: {dtype, shape, data_offsets}}, the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprue.errors import InputError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_HEADER_LIMIT = 100_000_000  # bytes; the limit of the reference implementation
_UNREADABLE = (  # what reading hostile JSON can raise
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_CHUNK = 64 << 20  # bytes read at once when rows are picked from a large table


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies.

    Attributes:
        file: the safetensors file.
        name: its name in the file.
        dtype: as the file spells it ("BF16").
        shape: its axes.
        start, stop: byte range, counted from the start of the file.
    """

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return self.stop - self.start


def read_header(file: Path) -> dict[str, Entry]:
    """Every tensor of `file`, checked against the length of the file.

    Raises:
        InputError: not safetensors, a damaged header, or a file that is cut short or too long.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise _damaged(file, f"its header should have {length} bytes, the file has {size}")
        text = stream.read(length)
    try:
        table = json.loads(text)
        entries = {
            name: _entry(file, name, fields, 8 + length)
            for name, fields in table.items()
            if name != "__metadata__"
        }
    except _UNREADABLE as error:
        raise _damaged(file, f"its header cannot be read ({error})") from error
    _check_ranges(file, entries, 8 + length, size)
    return entries


def _entry(file: Path, name: str, fields: Mapping[str, Any], base: int) -> Entry:
    start, stop = (int(offset) for offset in fields["data_offsets"])
    shape = tuple(int(axis) for axis in fields["shape"])
    return Entry(file, name, str(fields["dtype"]), shape, base + start, base + stop)


def _check_ranges(file: Path, entries: Mapping[str, Entry], base: int, size: int) -> None:
    end = base
    for entry in sorted(entries.values(), key=lambda e: (e.start, e.stop)):
        if entry.start != end:
            raise _damaged(file, f"tensor {entry.name!r} starts at byte {entry.start}, not {end}")
        end = entry.stop
        if entry.dtype in DTYPES and entry.nbytes != _nbytes(entry):
            raise _damaged(
                file,
                f"tensor {entry.name!r} of {entry.dtype} {list(entry.shape)} should have "
                f"{_nbytes(entry)} bytes, the header gives it {entry.nbytes}",
            )
    if end != size:
        raise _damaged(file, f"it should have {end} bytes and has {size}")


def _nbytes(entry: Entry) -> int:
    return math.prod(entry.shape) * DTYPES[entry.dtype].itemsize


def _damaged(file: Path, reason: str) -> InputError:
    return InputError(f"{file} is truncated or corrupt: {reason}. Fetch or copy the file again.")


def read(entry: Entry) -> Tensor:
    """The tensor of `entry` in its own dtype, in memory of its own.

    Raises:
        InputError: the file became shorter since its header was read, or has an unknown dtype.
    """
    return _range(entry, entry.start, entry.stop).reshape(entry.shape)


def chunks(entry: Entry, limit: int = _CHUNK) -> Iterator[Tensor]:
    """The tensor of `entry` in runs of rows (its first axis) of about `limit` bytes."""
    row = entry.nbytes // max(1, entry.shape[0])
    count = max(1, limit // max(1, row))
    for first in range(0, entry.shape[0], count):
        last = min(first + count, entry.shape[0])
        part = _range(entry, entry.start + first * row, entry.start + last * row)
        yield part.reshape(last - first, *entry.shape[1:])


def _range(entry: Entry, start: int, stop: int) -> Tensor:
    if entry.dtype not in DTYPES:
        raise InputError(
            f"tensor {entry.name!r} in {entry.file} has dtype {entry.dtype}; "
            f"expected one of {', '.join(DTYPES)}"
        )
    dtype = DTYPES[entry.dtype]
    tensor = torch.empty((stop - start) // dtype.itemsize, dtype=dtype)
    with entry.file.open("rb", buffering=0) as stream:
        stream.seek(start)
        count = _fill(stream, _raw(tensor))
    if count != stop - start:
        raise _damaged(entry.file, f"tensor {entry.name!r} ends after {count} bytes")
    return tensor


def _fill(stream: RawIOBase, room: memoryview) -> int:
    """Read until `room` is full or the file ends (one call reads at most 2 GiB)."""
    done = 0
    while done < len(room) and (count := stream.readinto(room[done:])):
        done += count
    return done


def encode(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file with `tensors`, piece by piece; same tensors, same bytes.

    Wide dtypes come first, so that every tensor is aligned (as the reference implementation does).
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        start, end = end, end + tensors[name].nbytes
        table[name] = {
            "dtype": _NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for name in order:
        yield _raw(tensors[name])


def _raw(tensor: Tensor) -> memoryview:
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
