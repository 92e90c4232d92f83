"""The rows of a log in DuckDB: cleaned, chosen, summed up and sampled, within a bound of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sprue.errors import InputError, ResourceError
from sprue.extras import needed
from sprue.usage import record, sql
from sprue.usage.asked import Asked
from sprue.usage.jsonl import CHARACTERS
from sprue.usage.reading import Log
from sprue.usage.record import Record
from sprue.usage.totals import COLUMNS, Ranked, Slot, Total

HOUR, DAY, WEEK = 3600, 86_400, 604_800
UNITS = {HOUR: "hour", DAY: "day", WEEK: "week", 4 * WEEK: "four weeks", 52 * WEEK: "52 weeks"}

_SLOTS = 100  # of time at most
_MONDAY = 72  # hours from a Monday to the first of January 1970
_BATCH = 4096  # texts that are named at once

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
        self._duckdb = needed("duckdb", "usage", "ranking a log")
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
        self._run(f"CREATE VIEW log AS {sql.rows_of(log)}")
        self._run(f"CREATE VIEW chosen AS SELECT * FROM log WHERE {sql.where(asked)}")
        self._run(f"CREATE VIEW rows AS {sql.clean('chosen', self._flops)}")

    def close(self) -> None:
        """Let go of files and memory."""
        self._base.close()

    def name(self, classify: Classify) -> None:
        """Let a classifier say what the log does not: the capability of every text without one.

        Args:
            classify: texts, cut to 2,512 characters -> their capabilities; None: unknown.
        """
        parquet = needed("pyarrow.parquet", "usage", "the usage log")
        unnamed = "nullif(capability, '') IS NULL AND text IS NOT NULL"
        told = ", ".join(sql.TOLD.values())
        found = self._run(f"SELECT {told}, left(text, {CHARACTERS}) FROM chosen WHERE {unnamed}")
        file = self._scratch / "named.parquet"
        with parquet.ParquetWriter(file, record.schema(), compression="lz4") as writer:
            while some := found.fetchmany(_BATCH):
                writer.write_table(record.table(_named(classify, some))[0])
        both = (
            f"SELECT * FROM chosen WHERE NOT ({unnamed}) "
            f"UNION ALL BY NAME SELECT * FROM {sql.scan([file])}"
        )
        self._run(f"CREATE VIEW named AS {both}")
        self._run(f"CREATE OR REPLACE VIEW rows AS {sql.clean('named', self._flops)}")

    def sum_up(self) -> None:
        """Read everything once; what follows asks what was found."""
        sets = "(), (capability), (capability, tenant), (capability, hour), (model)"
        keys = ", ".join(f"grouping({key}) AS no_{key}, {key}" for key in sql.KEYS)
        hour = f"SELECT *, CAST(floor(time / {HOUR}) AS BIGINT) AS hour FROM rows"
        self._run(
            f"CREATE TABLE sums AS SELECT {keys}, {sql.SUMS} FROM ({hour}) "
            f"GROUP BY GROUPING SETS ({sets})"
        )

    def whole(self) -> Total:
        """Of all rows."""
        return _total(self._run(f"SELECT {sql.AGAIN} FROM sums WHERE {sql.at()}").fetchone())

    def capabilities(self) -> list[Ranked]:
        """Every one, None among them, in no order."""
        return self._ranked("capability")

    def models(self) -> list[Ranked]:
        """Every one."""
        return self._ranked("model")

    def tenants(self, by: str, most: int) -> tuple[list[Ranked], int]:
        """The first by a measure, with their capabilities, and how many there are."""
        grouped = f"FROM sums WHERE {sql.at('capability', 'tenant')} GROUP BY tenant"
        (count,) = self._run(f"SELECT count(*) FROM (SELECT tenant {grouped})").fetchone()
        first = self._run(
            f"SELECT tenant, {sql.AGAIN} {grouped} "
            f"ORDER BY sum({sql.ORDER[by]}) DESC, tenant LIMIT {most}"
        ).fetchall()
        inside: dict[str, list[Ranked]] = {name: [] for name, *_ in first}
        if inside:
            names = ", ".join(map(sql.quoted, inside))
            found = self._run(
                f"SELECT tenant, capability, {', '.join(COLUMNS)} FROM sums "
                f"WHERE {sql.at('capability', 'tenant')} AND tenant IN ({names})"
            ).fetchall()
            for tenant, capability, *numbers in found:
                inside[tenant].append(Ranked(capability, _total(numbers)))
        ranked = [Ranked(n, _total(told), tuple(inside[n])) for n, *told in first]
        return ranked, int(count)

    def span(self) -> tuple[float, float] | None:
        """The first and last moment; None: no row tells one."""
        low, high = self._run("SELECT min(time), max(time) FROM rows").fetchone()
        return None if low is None else (float(low), float(high))

    def slots(self) -> tuple[int, list[Slot], Total]:
        """Seconds of a slot, the slots that hold anything, and the rows without a time."""
        at = sql.at("capability", "hour")
        low, high = self._run(f"SELECT min(hour), max(hour) FROM sums WHERE {at}").fetchone()
        none = _total(
            self._run(f"SELECT {sql.AGAIN} FROM sums WHERE {at} AND hour IS NULL").fetchone()
        )
        if low is None:
            return HOUR, [], none
        unit = _unit((high - low + 1) * HOUR)
        ahead = _MONDAY if unit >= WEEK else 0
        found = self._run(
            f"SELECT (hour + {ahead}) // {unit // HOUR} AS slot, capability, {sql.AGAIN} FROM sums "
            f"WHERE {at} AND hour IS NOT NULL GROUP BY ALL ORDER BY slot, capability NULLS LAST"
        ).fetchall()
        inside: dict[int, list[Ranked]] = {}
        for slot, capability, *numbers in found:
            start = slot * unit - ahead * HOUR
            inside.setdefault(start, []).append(Ranked(capability, _total(numbers)))
        return unit, [Slot(start, tuple(some)) for start, some in inside.items()], none

    def unknown(self, most: int, seed: int) -> Sample:
        """A sample of what no capability is known of: those with the smallest hash."""
        has = "text IS NOT NULL AND trim(text) <> ''"
        of, without = self._run(
            f"SELECT count(*) FILTER ({has}), count(*) FILTER (NOT coalesce({has}, FALSE)) "
            "FROM rows WHERE capability IS NULL"
        ).fetchone()
        cut = f"SELECT *, left(text, {CHARACTERS}) AS told FROM rows"
        numbers = ", ".join(sql.ONE.values())
        found = self._run(
            f"SELECT told, {numbers} FROM ({cut}) WHERE capability IS NULL AND {has} "
            f"ORDER BY hash({seed}, request, time, told), told, request, time, "
            f"tokens_in, tokens_out, flops LIMIT {most}"
        ).fetchall()
        texts = [told for told, *_ in found]
        return Sample(texts, [_total(own) for _, *own in found], int(of), int(without))

    def known_tenants(self, most: int) -> list[str]:
        """Some tenants of the whole log, whichever rows are chosen."""
        found = self._run(
            f"SELECT DISTINCT coalesce(tenant, '') AS t FROM log ORDER BY t LIMIT {most}"
        ).fetchall()
        return [name for (name,) in found]

    def _ranked(self, key: str) -> list[Ranked]:
        names = ", ".join([key, *COLUMNS])
        found = self._run(f"SELECT {names} FROM sums WHERE {sql.at(key)}").fetchall()
        return [Ranked(name, _total(numbers)) for name, *numbers in found]

    def _run(self, query: str) -> Any:
        try:
            return self._base.cursor().execute(query)
        except self._duckdb.OutOfMemoryException as error:
            raise ResourceError(
                "the log does not fit the memory that may be used, nor the disk of TMPDIR: give "
                f"more --memory, or name a folder with more room in TMPDIR ({_first_line(error)})"
            ) from error
        except self._duckdb.Error as error:
            raise InputError(f"the log cannot be read: {_first_line(error)}") from error


def _total(numbers: Sequence[int | None]) -> Total:
    """From columns in their order; of no rows at all they are NULL."""
    return Total(*(int(number or 0) for number in numbers))


def _named(classify: Classify, rows: Sequence[Sequence[Any]]) -> list[Record]:
    texts = [row[-1] for row in rows]
    names = classify(texts)
    if len(names) != len(texts):
        raise InputError(f"the classifier named {len(names)} of {len(texts)} texts")
    return [
        Record(**dict(zip(sql.TOLD, row, strict=False)), capability=name or None, text=row[-1])
        for row, name in zip(rows, names, strict=True)
    ]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _unit(seconds: int) -> int:
    """The shortest slot of which no more than enough cover so many seconds."""
    return next((u for u in UNITS if seconds <= _SLOTS * u), max(UNITS))
