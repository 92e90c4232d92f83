"""Records as rows of a segment."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sprue.usage import record
from sprue.usage.record import Record


def test_a_record_survives_a_segment(
    make: Callable[..., Record], save: Callable[..., Path], tmp_path: Path
) -> None:
    bare = Record(time=1.5, model="m")
    table = pq.read_table(save(tmp_path / "a.parquet", [make(3), bare]))
    assert table.schema.equals(record.schema())
    assert table.schema.metadata[record.VERSION_KEY] == b"1"
    first, second = table.to_pylist()
    assert dict(first.pop("scores")) == {"legal": 0.75, "code": 0.25}
    assert first == {name: getattr(make(3), name) for name in first}
    assert second["text"] is None
    assert second["capability"] is None
    assert second["flops"] is None
    assert (second["tenant"], second["steps"]) == ("", 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"time": None},
        {"model": 7},
        {"tenant": None},
        {"tokens_in": "many"},
        {"tokens_in": math.nan},
        {"tokens_out": math.inf},
        {"scores": None},
        {"scores": {"a": "high"}},
        {"text": 5},
        {"flops": "1e9x"},
    ],
)
def test_a_record_of_other_kinds_is_refused_alone(
    changes: dict[str, Any], make: Callable[..., Record]
) -> None:
    table, refused = record.table([make(1), make(2, **changes), make(3)])
    assert refused == 1
    assert table.column("request").to_pylist() == ["r1", "r3"]


def test_strange_values_are_written_as_they_are(make: Callable[..., Record]) -> None:
    strange = make(
        flops=math.nan,
        time=-math.inf,
        tokens_in=-4,
        tokens_out=2**70,
        model="m" * 1000,
        text="broken \ud800 half, \x00, 🙂",
    )
    table, refused = record.table([strange])
    (row,) = table.to_pylist()
    assert refused == 0
    assert math.isnan(row["flops"])
    assert row["time"] == -math.inf
    assert (row["tokens_in"], row["tokens_out"]) == (-4, None)
    assert row["model"] == "m" * 256
    assert row["text"] == "broken ? half, \x00, 🙂"


def test_no_records_are_a_table_too() -> None:
    table, refused = record.table([])
    assert (table.num_rows, refused) == (0, 0)
    assert table.schema.equals(record.schema())
