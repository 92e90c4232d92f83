"""One request and its answer, as a row of the usage log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sprue.extras import needed

VERSION = 1
VERSION_KEY, LOST_KEY, TEXT_KEY = b"sprue.usage.version", b"sprue.usage.lost", b"sprue.usage.text"

_NAME = 256  # characters that are kept of a name
_WHOLE = 2**63  # whole numbers in a segment lie below


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a request asked for, who answered it, and what that took.

    Nothing is checked here: a number that cannot be (NaN, below 0) is written as it is, and whoever
    ranks the log counts it and sets it aside.

    Attributes:
        time: when it came, seconds since 1970 in UTC.
        model: that answered; of several, the one that began.
        request: its name.
        tenant: whose it is; "" where nobody said.
        capability: that it was routed by; None: unknown.
        scores: of every capability by name, as the router gave them; may be empty.
        node: that the model runs on.
        tokens_in, tokens_out: of the request and of the answer; None: not known.
        flops: floating-point operations of all models, checks and drafts; None: not known.
        cpu_seconds: of all of it; None: not known.
        escalated: steps that the full model took over.
        steps: all steps of the answer.
        text: that was asked, once redacted; None where no text is kept.
    """

    time: float
    model: str
    request: str = ""
    tenant: str = ""
    capability: str | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    node: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    flops: float | None = None
    cpu_seconds: float | None = None
    escalated: int = 0
    steps: int = 0
    text: str | None = None


_Row = tuple[Any, ...]


def schema() -> Any:
    """The columns of a segment, a `pyarrow.Schema` with the schema's version in its metadata.

    Raises:
        InputError: pyarrow is not installed.
    """
    pa = needed("pyarrow", "usage", "the usage log")
    name, number = pa.string(), pa.float64()
    columns = [
        ("time", number),
        ("model", name),
        ("request", name),
        ("tenant", name),
        ("capability", name),
        ("scores", pa.map_(name, pa.float32())),
        ("node", name),
        ("tokens_in", pa.int64()),
        ("tokens_out", pa.int64()),
        ("flops", number),
        ("cpu_seconds", number),
        ("escalated", pa.int64()),
        ("steps", pa.int64()),
        ("text", name),
    ]
    return pa.schema(columns, metadata={VERSION_KEY: str(VERSION).encode()})


def table(records: Sequence[Record]) -> tuple[Any, int]:
    """A `pyarrow.Table` of what can be written, and how many records could not.

    A record cannot where an attribute is of another kind than it should be. Names are cut to 256
    characters; what is no Unicode (lone surrogates) becomes "?".

    Raises:
        InputError: pyarrow is not installed.
    """
    pa = needed("pyarrow", "usage", "the usage log")
    rows = [row for record in records if (row := _row(record)) is not None]
    columns = list(zip(*rows, strict=True)) or [()] * len(schema())
    arrays = [pa.array(c, type=f.type) for c, f in zip(columns, schema(), strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema()), len(records) - len(rows)


def _row(record: Record) -> _Row | None:
    try:
        return (
            float(record.time),
            _name(record.model),
            _name(record.request),
            _name(record.tenant),
            None if record.capability is None else _name(record.capability),
            [(_name(name), float(score)) for name, score in record.scores.items()],
            _name(record.node),
            _whole(record.tokens_in),
            _whole(record.tokens_out),
            None if record.flops is None else float(record.flops),
            None if record.cpu_seconds is None else float(record.cpu_seconds),
            _whole(record.escalated),
            _whole(record.steps),
            None if record.text is None else _unicode(record.text),
        )
    except (TypeError, ValueError, AttributeError, OverflowError):
        return None


def _name(name: str) -> str:
    return _unicode(name[:_NAME])


def _unicode(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _whole(number: int | None) -> int | None:
    if number is None:
        return None
    whole = int(number)
    return whole if -_WHOLE <= whole < _WHOLE else None
