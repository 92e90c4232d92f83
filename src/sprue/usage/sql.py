"""The SQL that a log is asked in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sprue.usage import record
from sprue.usage.asked import Asked
from sprue.usage.reading import Log
from sprue.usage.totals import COLUMNS, COMPUTE, REQUESTS, TOKENS

KEYS = ("capability", "tenant", "model", "hour")  # that sums are grouped by

_LATEST = 7_258_118_400  # the year 2200, beyond which a clock is wrong
_TOKENS = 1 << 40  # of a request, beyond which a count is wrong
_FLOPS, _CPU = 9e18, 9e12  # of a request; they fit 64 bits, the latter in millionths of a second

# The measures over the sums.
ORDER = {COMPUTE: "flops", TOKENS: "tokens_in + tokens_out", REQUESTS: "requests"}

# What is told of a row whose capability a classifier names.
TOLD = {
    "time": "coalesce(time, 'nan')",
    **{name: f"coalesce({name}, '')" for name in ("model", "request", "tenant")},
    **{name: name for name in ("tokens_in", "tokens_out", "flops", "cpu_seconds")},
    **{name: f"coalesce({name}, 0)" for name in ("escalated", "steps")},
}

# What a row adds to each column of a Total.
ONE = {
    "requests": "1",
    "tokens_in": "coalesce(tokens_in, 0)",
    "tokens_out": "coalesce(tokens_out, 0)",
    "flops": "coalesce(flops, 0)",
    "estimated": "CASE WHEN guessed THEN coalesce(flops, 0) ELSE 0 END",
    "cpu_microseconds": "coalesce(cpu_seconds, 0)",
    "escalated": "coalesce(escalated, 0)",
    "steps": "coalesce(steps, 0)",
    "without_tokens": "CAST(tokens_in IS NULL AND tokens_out IS NULL AS INTEGER)",
    "without_flops": "CAST(flops IS NULL AS INTEGER)",
    "tokens_without_flops": (
        "CASE WHEN flops IS NULL THEN coalesce(tokens_in, 0) + coalesce(tokens_out, 0) ELSE 0 END"
    ),
    "impossible": "CAST(impossible AS INTEGER)",
}
SUMS = ", ".join(f"sum({ONE[name]}) AS {name}" for name in COLUMNS)
AGAIN = ", ".join(f"sum({name}) AS {name}" for name in COLUMNS)


def rows_of(log: Log) -> str:
    """Segments, and halves of requests joined by name: the k-th with the k-th of that name."""
    names = [f.name for f in record.schema()]
    parts = []
    if log.segments:
        parts.append(f"SELECT {', '.join(names)} FROM {scan(log.segments)}")
    if log.asked or log.answered:
        parts.append(_joined(log, names))
    return " UNION ALL BY NAME ".join(parts)


def _joined(log: Log, names: Iterable[str]) -> str:
    sides = {"a": log.answered, "q": log.asked}
    present = {side: files for side, files in sides.items() if files}
    if len(present) == 1:
        (files,) = present.values()
        return f"SELECT {', '.join(names)} FROM {scan(files)}"
    either = ", ".join(f"{_either(name)} AS {name}" for name in names)
    halves = {side: _numbered(files) for side, files in present.items()}
    return (
        f"SELECT {either} FROM ({halves['a']}) a FULL JOIN ({halves['q']}) q "
        "ON a.request = q.request AND a.nth = q.nth"
    )


def _either(name: str) -> str:
    """What the answer tells, else what the request does; NaN is the time that neither tells."""
    if name == "time":
        return "CASE WHEN isfinite(a.time) THEN a.time ELSE q.time END"
    if name in ("tenant", "model", "node"):
        return f"coalesce(nullif(a.{name}, ''), q.{name})"
    return f"coalesce(a.{name}, q.{name})"


def _numbered(files: Sequence[Path]) -> str:
    return (
        "SELECT *, row_number() OVER (PARTITION BY request ORDER BY filename, file_row_number) AS "
        f"nth FROM {scan(files, 'filename = true, file_row_number = true')}"
    )


def where(asked: Asked) -> str:
    """The rows that count."""
    parts = ["TRUE"]
    if asked.tenants:
        parts.append(f"coalesce(tenant, '') IN ({', '.join(map(quoted, asked.tenants))})")
    bounds = (asked.since, ">="), (asked.until, "<")
    parts += [f"time {sign} {float(at)!r}" for at, sign in bounds if at is not None]
    if asked.since is not None or asked.until is not None:
        parts.append(f"isfinite(time) AND time > 0 AND time < {_LATEST}")
    return " AND ".join(parts)


def at(*keys: str) -> str:
    """The rows of the sums that were grouped by just these."""
    return " AND ".join(f"no_{key} = {int(key not in keys)}" for key in KEYS)


def clean(source: str, flops: Mapping[str, float]) -> str:
    """The rows with only such numbers as can be; others are NULL, and the row says so.

    Args:
        source: table or view with the columns of a segment.
        flops: as `Asked` has them.
    """
    checks = _checks()
    bad = " OR ".join(
        f"({n} IS NOT NULL AND ({c}) IS NULL)" for n, c in checks.items() if n != "time"
    )
    columns = ", ".join(f"{check} AS clean_{name}" for name, check in checks.items())
    some = (
        "SELECT coalesce(request, '') AS request, coalesce(tenant, '') AS tenant, "
        "nullif(capability, '') AS capability, coalesce(model, '') AS model, text, "
        f"{columns}, ({bad}) AS impossible FROM {source}"
    )
    names = ", ".join(f"clean_{name} AS {name}" for name in checks if name != "flops")
    return (
        f"SELECT request, tenant, capability, model, text, impossible, {names}, "
        f"coalesce(clean_flops, {_guess(flops)}) AS flops, clean_flops IS NULL AS guessed "
        f"FROM ({some})"
    )


def _checks() -> dict[str, str]:
    """Every number as it is where it can be, and else NULL; CPU seconds in millionths."""
    counts = ("tokens_in", "tokens_out", "escalated", "steps")
    return {
        **{name: f"CASE WHEN {name} BETWEEN 0 AND {_TOKENS} THEN {name} END" for name in counts},
        "flops": f"CASE WHEN isfinite(flops) AND flops BETWEEN 0 AND {_FLOPS} "
        "THEN try_cast(flops AS BIGINT) END",
        "cpu_seconds": f"CASE WHEN isfinite(cpu_seconds) AND cpu_seconds BETWEEN 0 AND {_CPU} "
        "THEN try_cast(cpu_seconds * 1e6 AS BIGINT) END",
        "time": f"CASE WHEN isfinite(time) AND time > 0 AND time < {_LATEST} THEN time END",
    }


def _guess(flops: Mapping[str, float]) -> str:
    """FLOPs from tokens, for the models that the user gave them for."""
    if not flops:
        return "NULL"
    cases = " ".join(f"WHEN {quoted(m)} THEN {float(value)!r}" for m, value in flops.items())
    tokens = "(coalesce(clean_tokens_in, 0) + coalesce(clean_tokens_out, 0))"
    known = "coalesce(clean_tokens_in, clean_tokens_out) IS NOT NULL"
    product = f"{tokens} * (CASE model {cases} END)"
    return f"CASE WHEN {known} AND {product} <= {_FLOPS} THEN try_cast({product} AS BIGINT) END"


def scan(files: Sequence[Path], options: str = "") -> str:
    """The rows of Parquet files."""
    names = ", ".join(quoted(_literal(str(file.absolute()))) for file in files)
    return f"read_parquet([{names}]{', ' if options else ''}{options})"


def _literal(path: str) -> str:
    """A path in which nothing is a pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
