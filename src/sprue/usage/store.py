"""The rows of a log in DuckDB: cleaned, chosen, summed up and sampled, within a bound of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sprue.errors import InputError, ResourceError
from sprue.usage import record
from sprue.usage.asked import Asked
from sprue.usage.extras import needed
from sprue.usage.jsonl import CHARACTERS
from sprue.usage.reading import Log
from sprue.usage.record import Record
from sprue.usage.totals import COLUMNS, COMPUTE, REQUESTS, TOKENS, Ranked, Slot, Total

HOUR, DAY, WEEK = 3600, 86_400, 604_800
UNITS = {HOUR: "hour", DAY: "day", WEEK: "week", 4 * WEEK: "four weeks", 52 * WEEK: "52 weeks"}

_SLOTS = 100  # of time at most
_MONDAY = 72  # hours from a Monday to the first of January 1970
_LATEST = 7_258_118_400  # the year 2200, beyond which a clock is wrong
_TOKENS = 1 << 40  # of a request, beyond which a count is wrong
_FLOPS, _CPU = 9e18, 9e12  # of a request; they fit 64 bits, the latter in millionths of a second
_BATCH = 4096  # texts that are named at once
_KEYS = ("capability", "tenant", "model", "hour")

_TOLD = {
    "time": "coalesce(time, 'nan')",
    **{name: f"coalesce({name}, '')" for name in ("model", "request", "tenant")},
    **{name: name for name in ("tokens_in", "tokens_out", "flops", "cpu_seconds")},
    **{name: f"coalesce({name}, 0)" for name in ("escalated", "steps")},
}

Classify = Callable[[list[str]], list[str | None]]


@dataclass(frozen=True)
class Sample:
    """Requests that no capability is known of.

    Attributes:
        texts: at most so many as were asked for.
        totals: of each.
        of: all such requests with a text.
        without: such requests without one.
    """

    texts: list[str]
    totals: list[Total]
    of: int
    without: int


class Rows:
    """A log that can be asked.

    Args:
        log: what can be read of it.
        scratch: folder for what does not fit the memory.
        asked: which rows count, and the FLOPs of tokens.
        threads: of DuckDB.
        memory: that DuckDB may take, such as "1GB".

    Raises:
        InputError: duckdb is not installed, or cannot read the files.
        ResourceError: neither memory nor disk suffice.
    """

    def __init__(
        self, log: Log, scratch: Path, asked: Asked, threads: int = 1, memory: str = "1GB"
    ) -> None:
        self._duckdb = needed("duckdb", "ranking a log")
        self._scratch, self._flops = scratch, asked.flops
        self._base = self._duckdb.connect(
            config={
                "threads": threads,
                "memory_limit": memory,
                "temp_directory": str(scratch / "spill"),
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            }
        )
        self._run(f"CREATE VIEW log AS {_log(log)}")
        self._run(f"CREATE VIEW chosen AS SELECT * FROM log WHERE {_where(asked)}")
        self._run(f"CREATE VIEW rows AS {_clean('chosen', self._flops)}")

    def close(self) -> None:
        """Let go of files and memory."""
        self._base.close()

    def name(self, classify: Classify) -> None:
        """Let a classifier say what the log does not: the capability of every text without one.

        Args:
            classify: texts, cut to 2,512 characters -> their capabilities; None: unknown.
        """
        parquet = needed("pyarrow.parquet", "the usage log")
        unnamed = "nullif(capability, '') IS NULL AND text IS NOT NULL"
        told = ", ".join(_TOLD.values())
        found = self._run(f"SELECT {told}, left(text, {CHARACTERS}) FROM chosen WHERE {unnamed}")
        file = self._scratch / "named.parquet"
        with parquet.ParquetWriter(file, record.schema(), compression="lz4") as writer:
            while some := found.fetchmany(_BATCH):
                writer.write_table(record.table(_named(classify, some))[0])
        both = (
            f"SELECT * FROM chosen WHERE NOT ({unnamed}) "
            f"UNION ALL BY NAME SELECT * FROM {_files([file])}"
        )
        self._run(f"CREATE VIEW named AS {both}")
        self._run(f"CREATE OR REPLACE VIEW rows AS {_clean('named', self._flops)}")

    def sum_up(self) -> None:
        """Read everything once; what follows asks what was found."""
        sets = "(), (capability), (capability, tenant), (capability, hour), (model)"
        keys = ", ".join(f"grouping({key}) AS no_{key}, {key}" for key in _KEYS)
        hour = f"SELECT *, CAST(floor(time / {HOUR}) AS BIGINT) AS hour FROM rows"
        self._run(
            f"CREATE TABLE sums AS SELECT {keys}, {_SUMS} FROM ({hour}) "
            f"GROUP BY GROUPING SETS ({sets})"
        )

    def whole(self) -> Total:
        """Of all rows."""
        return self._totals((), "TRUE")[0].total

    def capabilities(self) -> list[Ranked]:
        """Every one, None among them, in no order."""
        return self._totals(("capability",), "TRUE")

    def models(self) -> list[Ranked]:
        """Every one."""
        return self._totals(("model",), "TRUE")

    def tenants(self, by: str, most: int) -> tuple[list[Ranked], int]:
        """The first by a measure, with their capabilities, and how many there are."""
        grouped = f"FROM sums WHERE {_at('capability', 'tenant')} GROUP BY tenant"
        (count,) = self._run(f"SELECT count(*) FROM (SELECT tenant {grouped})").fetchone()
        first = self._run(
            f"SELECT tenant, {_AGAIN} {grouped} "
            f"ORDER BY sum({_ORDER[by]}) DESC, tenant LIMIT {most}"
        ).fetchall()
        inside: dict[str, list[Ranked]] = {name: [] for name, *_ in first}
        if inside:
            names = ", ".join(map(_quoted, inside))
            found = self._run(
                f"SELECT tenant, capability, {', '.join(COLUMNS)} FROM sums "
                f"WHERE {_at('capability', 'tenant')} AND tenant IN ({names})"
            ).fetchall()
            for tenant, capability, *numbers in found:
                inside[tenant].append(Ranked(capability, Total(*map(int, numbers))))
        ranked = [Ranked(n, Total(*map(int, told)), tuple(inside[n])) for n, *told in first]
        return ranked, int(count)

    def span(self) -> tuple[float, float] | None:
        """The first and last moment; None: no row tells one."""
        low, high = self._run("SELECT min(time), max(time) FROM rows").fetchone()
        return None if low is None else (float(low), float(high))

    def slots(self) -> tuple[int, list[Slot], Total]:
        """Seconds of a slot, the slots that hold anything, and the rows without a time."""
        at = _at("capability", "hour")
        low, high = self._run(f"SELECT min(hour), max(hour) FROM sums WHERE {at}").fetchone()
        lost = self._run(f"SELECT {_AGAIN} FROM sums WHERE {at} AND hour IS NULL").fetchone()
        none = Total(*(int(n or 0) for n in lost))
        if low is None:
            return HOUR, [], none
        unit = _unit((high - low + 1) * HOUR)
        ahead = _MONDAY if unit >= WEEK else 0
        found = self._run(
            f"SELECT (hour + {ahead}) // {unit // HOUR} AS slot, capability, {_AGAIN} FROM sums "
            f"WHERE {at} AND hour IS NOT NULL GROUP BY ALL ORDER BY slot, capability NULLS LAST"
        ).fetchall()
        inside: dict[int, list[Ranked]] = {}
        for slot, capability, *numbers in found:
            start = slot * unit - ahead * HOUR
            inside.setdefault(start, []).append(Ranked(capability, Total(*map(int, numbers))))
        return unit, [Slot(start, tuple(some)) for start, some in inside.items()], none

    def unknown(self, most: int, seed: int) -> Sample:
        """A sample of what no capability is known of: those with the smallest hash."""
        has = "text IS NOT NULL AND trim(text) <> ''"
        of, without = self._run(
            f"SELECT count(*) FILTER ({has}), count(*) FILTER (NOT coalesce({has}, FALSE)) "
            "FROM rows WHERE capability IS NULL"
        ).fetchone()
        cut = f"SELECT *, left(text, {CHARACTERS}) AS told FROM rows"
        numbers = ", ".join(_ONE.values())
        found = self._run(
            f"SELECT told, {numbers} FROM ({cut}) WHERE capability IS NULL AND {has} "
            f"ORDER BY hash({seed}, request, time, told), told, request, time LIMIT {most}"
        ).fetchall()
        texts = [told for told, *_ in found]
        totals = [Total(*(int(n or 0) for n in numbers)) for _, *numbers in found]
        return Sample(texts, totals, int(of), int(without))

    def known_tenants(self, most: int) -> list[str]:
        """Some tenants of the whole log, whichever rows are chosen."""
        found = self._run(
            f"SELECT DISTINCT coalesce(tenant, '') AS t FROM log ORDER BY t LIMIT {most}"
        ).fetchall()
        return [name for (name,) in found]

    def _totals(self, keys: Sequence[str], where: str) -> list[Ranked]:
        names = ", ".join([*keys, *COLUMNS])
        found = self._run(f"SELECT {names} FROM sums WHERE {_at(*keys)} AND {where}").fetchall()
        return [
            Ranked(told[0] if keys else None, Total(*(int(n or 0) for n in told[len(keys) :])))
            for told in found
        ]

    def _run(self, sql: str) -> Any:
        try:
            return self._base.cursor().execute(sql)
        except self._duckdb.OutOfMemoryException as error:
            raise ResourceError(
                "the log does not fit the memory that may be used, nor the disk of TMPDIR: give "
                f"more --memory, or name a folder with more room in TMPDIR ({_first_line(error)})"
            ) from error
        except self._duckdb.Error as error:
            raise InputError(f"the log cannot be read: {_first_line(error)}") from error


# What a row adds to each column of a Total.
_ONE = {
    "requests": "1",
    "tokens_in": "coalesce(tokens_in, 0)",
    "tokens_out": "coalesce(tokens_out, 0)",
    "flops": "coalesce(flops, 0)",
    "estimated": "CASE WHEN guessed THEN coalesce(flops, 0) ELSE 0 END",
    "cpu_microseconds": "coalesce(cpu, 0)",
    "escalated": "coalesce(escalated, 0)",
    "steps": "coalesce(steps, 0)",
    "without_tokens": "CAST(tokens_in IS NULL AND tokens_out IS NULL AS INTEGER)",
    "without_flops": "CAST(flops IS NULL AS INTEGER)",
    "tokens_without_flops": (
        "CASE WHEN flops IS NULL THEN coalesce(tokens_in, 0) + coalesce(tokens_out, 0) ELSE 0 END"
    ),
    "impossible": "CAST(impossible AS INTEGER)",
}
_SUMS = ", ".join(f"sum({_ONE[name]}) AS {name}" for name in COLUMNS)
_AGAIN = ", ".join(f"sum({name}) AS {name}" for name in COLUMNS)


_ORDER = {COMPUTE: "flops", TOKENS: "tokens_in + tokens_out", REQUESTS: "requests"}


def _clean(source: str, flops: Mapping[str, float]) -> str:
    """The rows with only such numbers as can be; others are NULL, and the row says so."""
    whole = {
        name: f"CASE WHEN {name} BETWEEN 0 AND {_TOKENS} THEN {name} END"
        for name in ("tokens_in", "tokens_out", "escalated", "steps")
    }
    real = {
        "flops": f"CASE WHEN isfinite(flops) AND flops BETWEEN 0 AND {_FLOPS} THEN "
        "try_cast(flops AS BIGINT) END",
        "cpu_seconds": f"CASE WHEN isfinite(cpu_seconds) AND cpu_seconds BETWEEN 0 AND {_CPU} THEN "
        "try_cast(cpu_seconds * 1e6 AS BIGINT) END",
        "time": f"CASE WHEN isfinite(time) AND time > 0 AND time < {_LATEST} THEN time END",
    }
    bad = " OR ".join(
        f"({name} IS NOT NULL AND ({clean}) IS NULL)"
        for name, clean in {**whole, **real}.items()
        if name != "time"
    )
    columns = ", ".join(
        f"{clean} AS {'cpu' if name == 'cpu_seconds' else f'clean_{name}'}"
        for name, clean in {**whole, **real}.items()
    )
    some = (
        "SELECT coalesce(request, '') AS request, coalesce(tenant, '') AS tenant, "
        "nullif(capability, '') AS capability, coalesce(model, '') AS model, text, "
        f"{columns}, ({bad}) AS impossible FROM {source}"
    )
    names = ", ".join(f"clean_{name} AS {name}" for name in [*whole, "time"])
    return (
        f"SELECT request, tenant, capability, model, text, cpu, impossible, {names}, "
        f"coalesce(clean_flops, {_guess(flops)}) AS flops, "
        f"clean_flops IS NULL AS guessed FROM ({some})"
    )


def _guess(flops: Mapping[str, float]) -> str:
    """FLOPs from tokens, for the models that the user gave them for."""
    if not flops:
        return "NULL"
    cases = " ".join(f"WHEN {_quoted(m)} THEN {float(value)!r}" for m, value in flops.items())
    tokens = "(coalesce(clean_tokens_in, 0) + coalesce(clean_tokens_out, 0))"
    known = "coalesce(clean_tokens_in, clean_tokens_out) IS NOT NULL"
    product = f"{tokens} * (CASE model {cases} END)"
    return f"CASE WHEN {known} AND {product} <= {_FLOPS} THEN try_cast({product} AS BIGINT) END"


def _log(log: Log) -> str:
    """Segments, and halves of requests joined by name: the k-th with the k-th of that name."""
    names = [f.name for f in record.schema()]
    parts = []
    if log.segments:
        parts.append(f"SELECT {', '.join(names)} FROM {_files(log.segments)}")
    if log.asked or log.answered:
        parts.append(_joined(log, names))
    return " UNION ALL BY NAME ".join(parts)


def _joined(log: Log, names: Iterable[str]) -> str:
    sides = {"a": log.answered, "q": log.asked}
    present = {side: files for side, files in sides.items() if files}
    if len(present) == 1:
        (files,) = present.values()
        return f"SELECT {', '.join(names)} FROM {_files(files)}"
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
        f"nth FROM {_files(files, 'filename = true, file_row_number = true')}"
    )


def _where(asked: Asked) -> str:
    parts = ["TRUE"]
    if asked.tenants:
        parts.append(f"coalesce(tenant, '') IN ({', '.join(map(_quoted, asked.tenants))})")
    bounds = (asked.since, ">="), (asked.until, "<")
    parts += [f"time {sign} {float(at)!r}" for at, sign in bounds if at is not None]
    if asked.since is not None or asked.until is not None:
        parts.append(f"isfinite(time) AND time > 0 AND time < {_LATEST}")
    return " AND ".join(parts)


def _at(*keys: str) -> str:
    """The rows of the sums that were grouped by just these."""
    return " AND ".join(f"no_{key} = {int(key not in keys)}" for key in _KEYS)


def _unit(seconds: int) -> int:
    """The shortest slot of which no more than enough cover so many seconds."""
    return next((u for u in UNITS if seconds <= _SLOTS * u), max(UNITS))


def _files(files: Sequence[Path], options: str = "") -> str:
    names = ", ".join(_quoted(_literal(str(file.absolute()))) for file in files)
    return f"read_parquet([{names}]{', ' if options else ''}{options})"


def _literal(path: str) -> str:
    """A path in which nothing is a pattern."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def _quoted(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def _named(classify: Classify, rows: Sequence[Sequence[Any]]) -> list[Record]:
    texts = [row[-1] for row in rows]
    names = classify(texts)
    if len(names) != len(texts):
        raise InputError(f"the classifier named {len(names)} of {len(texts)} texts")
    return [
        Record(**dict(zip(_TOLD, row, strict=False)), capability=name or None, text=row[-1])
        for row, name in zip(rows, names, strict=True)
    ]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
