"""Records, and segments made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sprue.usage import record
from sprue.usage.record import Record

START = 1_767_225_600.0  # the first of January 2026


def made(i: int = 0, **changes: Any) -> Record:
    """A record like another, apart from what is changed."""
    fields = {
        "time": START + 60 * i,
        "model": "full",
        "request": f"r{i}",
        "tenant": "acme",
        "capability": "legal",
        "scores": {"legal": 0.75, "code": 0.25},
        "node": "node-a",
        "tokens_in": 10,
        "tokens_out": 5,
        "flops": 3e9,
        "cpu_seconds": 0.25,
        "escalated": 1,
        "steps": 5,
        "text": f"what does clause {i} mean",
    }
    return Record(**(fields | changes))


def saved(file: Path, records: Sequence[Record], **metadata: bytes) -> Path:
    """A segment with these records, as `usage.segments` writes it."""
    table, refused = record.table(records)
    assert not refused
    told = {name.encode(): value for name, value in metadata.items()}
    table = table.replace_schema_metadata({**table.schema.metadata, **told})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)
    return file


@pytest.fixture
def make() -> Callable[..., Record]:
    return made


@pytest.fixture
def save() -> Callable[..., Path]:
    return saved
