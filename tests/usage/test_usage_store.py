"""Sums of a log against plain Python, whatever stands in it."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sprue.errors import InputError, ResourceError
from sprue.usage import reading, sql
from sprue.usage.asked import Asked
from sprue.usage.record import Record
from sprue.usage.store import DAY, HOUR, WEEK, Rows
from sprue.usage.totals import COLUMNS, Ranked, Total, added

Make, Save = Callable[..., Record], Callable[..., Path]
START = 1_767_225_600.0


def strange(count: int, seed: int = 0) -> list[Record]:
    """Records with everything in them that a log may hold."""
    draw = random.Random(seed)

    def one(i: int) -> Record:
        return Record(
            time=draw.choice([START + 3600 * draw.uniform(0, 60), math.nan, -5.0, 1e300, math.inf]),
            model=draw.choice(["big", "small", "it's"]),
            request=f"r{i % 50}",
            tenant=draw.choice(["acme", "o'neil", "", "日本"]),
            capability=draw.choice(["legal", "code", "", None, 'a"b']),
            tokens_in=draw.choice([None, 0, 5, -1, 2**62, draw.randrange(1000)]),
            tokens_out=draw.choice([None, 7, draw.randrange(1000)]),
            flops=draw.choice([None, math.nan, -1.0, math.inf, 1e19, draw.uniform(0, 1e15)]),
            cpu_seconds=draw.choice([None, math.nan, -0.5, draw.uniform(0, 9)]),
            escalated=draw.choice([0, 3, -2]),
            steps=draw.choice([0, 10]),
            text=draw.choice([None, "", "  ", f"text {i}"]),
        )

    return [one(i) for i in range(count)]


def total_of(one: Record, flops: dict[str, float]) -> Total:
    """A record's own total, written from the definition."""

    def count(value: int | None) -> int | None:
        return value if value is not None and 0 <= value <= 2**40 else None

    def real(value: float | None, most: float) -> float | None:
        return value if value is not None and math.isfinite(value) and 0 <= value <= most else None

    tokens_in, tokens_out = count(one.tokens_in), count(one.tokens_out)
    measured, cpu = real(one.flops, 9e18), real(one.cpu_seconds, 9e12)
    tokens = None if tokens_in is tokens_out is None else (tokens_in or 0) + (tokens_out or 0)
    guess = None if tokens is None or one.model not in flops else tokens * flops[one.model]
    known = guess if measured is None else measured
    pairs = (
        *((one.tokens_in, tokens_in), (one.tokens_out, tokens_out), (one.flops, measured)),
        *((one.cpu_seconds, cpu), (one.escalated, count(one.escalated))),
    )
    return Total(
        requests=1,
        tokens_in=tokens_in or 0,
        tokens_out=tokens_out or 0,
        flops=round(known or 0),
        estimated=round(guess or 0) if measured is None else 0,
        cpu_microseconds=round(1e6 * (cpu or 0)),
        escalated=count(one.escalated) or 0,
        steps=one.steps,
        without_tokens=int(tokens is None),
        without_flops=int(known is None),
        tokens_without_flops=(tokens or 0) if known is None else 0,
        impossible=int(any(told is not None and clean is None for told, clean in pairs)),
    )


def grouped(
    records: Sequence[Record], key: Callable[[Record], Any], flops: dict[str, float]
) -> dict[Any, Total]:
    found: dict[Any, list[Total]] = defaultdict(list)
    for one in records:
        found[key(one)].append(total_of(one, flops))
    return {name: added(totals) for name, totals in found.items()}


def by_name(some: Sequence[Ranked]) -> dict[Any, Total]:
    return {one.name: one.total for one in some}


def capability(one: Record) -> str | None:
    return one.capability or None


@contextmanager
def opened(logs: Path, scratch: Path, asked: Asked | None = None, **options: Any) -> Iterator[Rows]:
    scratch.mkdir(exist_ok=True)
    rows = Rows(reading.read([logs], scratch), scratch, asked or Asked(), **options)
    rows.sum_up()
    yield rows
    rows.close()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    import pyarrow.parquet as pq

    from sprue.usage import record

    folder, records = tmp_path_factory.mktemp("log"), strange(900)
    for i in range(3):
        pq.write_table(record.table(records[300 * i :][:300])[0], folder / f"{i}.parquet")
    return folder, records


@pytest.mark.parametrize("flops", [{}, {"big": 2e9, "it's": 3.0}])
def test_sums_are_those_of_plain_python(
    flops: dict[str, float], log: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    folder, records = log
    with opened(folder, tmp_path / "s", Asked(flops=flops), threads=2) as rows:
        assert rows.whole() == added(total_of(one, flops) for one in records)
        assert by_name(rows.capabilities()) == grouped(records, capability, flops)
        assert by_name(rows.models()) == grouped(records, lambda one: one.model, flops)
        for measure in ("compute", "tokens", "requests"):
            tenants, count = rows.tenants(measure, 3)
            expected = grouped(records, lambda one: one.tenant, flops)
            first = sorted(expected, key=lambda n: (-expected[n].by(measure), n))[:3]
            assert count == 4
            assert [one.name for one in tenants] == first
            for one in tenants:
                mine = [r for r in records if r.tenant == one.name]
                assert by_name(one.inside) == grouped(mine, capability, flops)


def test_slots_of_time(log: tuple[Path, list[Record]], tmp_path: Path) -> None:
    folder, records = log
    timed = [one for one in records if 0 < one.time < 7_258_118_400]
    with opened(folder, tmp_path / "s") as rows:
        unit, slots, untimed = rows.slots()
        assert rows.span() == (min(r.time for r in timed), max(r.time for r in timed))
    assert unit == HOUR
    assert untimed == added(total_of(r, {}) for r in records if r not in timed)
    expected = grouped(timed, lambda r: (r.time // HOUR * HOUR, capability(r)), {})
    found = {(slot.start, one.name): one.total for slot in slots for one in slot.inside}
    assert found == expected
    assert [slot.start for slot in slots] == sorted({slot.start for slot in slots})


@pytest.mark.parametrize(
    ("days", "unit"),
    [(4, HOUR), (5, DAY), (99, DAY), (101, WEEK), (900, 4 * WEEK), (9e3, 52 * WEEK)],
)
def test_slots_are_as_long_as_the_log_wants(
    days: float, unit: int, make: Make, save: Save, tmp_path: Path
) -> None:
    save(tmp_path / "log" / "a.parquet", [make(0), make(time=START + DAY * days)])
    with opened(tmp_path / "log", tmp_path / "s") as rows:
        found, slots, _ = rows.slots()
    assert found == unit
    first = slots[0].start
    assert first <= START < first + unit
    if unit >= WEEK:
        assert (first - 4 * DAY) % WEEK == 0  # the fifth of January 1970 was a Monday


def test_only_what_was_asked_for_counts(log: tuple[Path, list[Record]], tmp_path: Path) -> None:
    folder, records = log
    since, until = START + 7200, START + 36_000
    for asked, counts in (
        (Asked(tenants=("o'neil",)), lambda r: r.tenant == "o'neil"),
        (Asked(tenants=("", "acme")), lambda r: r.tenant in ("", "acme")),
        (Asked(since=since), lambda r: since <= r.time < 7e9),
        (Asked(until=until), lambda r: 0 < r.time < until),
        (Asked(since=since, until=until), lambda r: since <= r.time < until),
    ):
        with opened(folder, tmp_path / "s", asked) as rows:
            assert rows.whole() == added(total_of(r, {}) for r in records if counts(r))
    with opened(folder, tmp_path / "s", Asked(tenants=("nobody",))) as rows:
        assert rows.whole() == Total()
        assert (rows.capabilities(), rows.models(), rows.span()) == ([], [], None)
        assert rows.tenants("compute", 5) == ([], 0)
        assert rows.slots() == (HOUR, [], Total())


def test_a_sample_of_the_unknown(log: tuple[Path, list[Record]], tmp_path: Path) -> None:
    folder, records = log
    unknown = [r for r in records if not r.capability]
    texts = sorted(r.text for r in unknown if r.text and r.text.strip())
    with opened(folder, tmp_path / "s") as rows:
        whole, some, other = rows.unknown(10_000, 0), rows.unknown(20, 0), rows.unknown(20, 1)
        again = rows.unknown(20, 0)
    assert sorted(whole.texts) == texts
    assert (whole.of, whole.without) == (len(texts), len(unknown) - len(texts))
    assert added(whole.totals) == added(total_of(r, {}) for r in unknown if r.text in set(texts))
    assert (len(some.texts), some.of) == (20, len(texts))
    assert some == again
    assert set(some.texts) < set(texts)
    assert some.texts != other.texts


def test_a_classifier_names_what_the_log_does_not(
    log: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    folder, records = log

    def classify(texts: list[str]) -> list[str | None]:
        return [
            "even" if text.strip() and int(text.split()[1]) % 2 == 0 else None for text in texts
        ]

    def named(one: Record) -> str | None:
        if one.capability or one.text is None:
            return capability(one)
        return classify([one.text])[0]

    flops = {"small": 7.0}
    rows = Rows(reading.read([folder], tmp_path), tmp_path, Asked(flops=flops))
    rows.name(classify)
    rows.sum_up()
    assert by_name(rows.capabilities()) == grouped(records, named, flops)
    assert rows.whole() == added(total_of(one, flops) for one in records)
    with pytest.raises(InputError, match="named 0 of"):
        rows.name(lambda texts: [])
    rows.close()


def test_halves_of_requests_are_joined_by_name_and_turn(
    make: Make, save: Save, tmp_path: Path
) -> None:
    nan = math.nan
    asked = [
        make(time=nan, request="a", text="one", model="m", tenant="t", tokens_in=None),
        make(time=nan, request="a", text="two", model="m", tenant="t", tokens_in=None),
        make(time=nan, request="b", text="three", model="m", tenant="t", tokens_in=None),
    ]
    answered = [
        make(1, request="a", text=None, model="m-1", tenant="", tokens_in=1),
        make(2, request="c", text=None, model="m-1", tenant="", tokens_in=2),
        make(3, request="a", text=None, model="m-1", tenant="", tokens_in=4),
    ]
    halves = reading.Log(
        asked=[save(tmp_path / "q.parquet", asked)],
        answered=[save(tmp_path / "a.parquet", answered)],
    )
    rows = Rows(halves, tmp_path, Asked())
    found = rows._run(
        "SELECT request, text, tokens_in, model, tenant, time FROM rows ORDER BY text, request"
    ).fetchall()
    assert found == [
        ("a", "one", 1, "m-1", "t", START + 60),
        ("b", "three", None, "m", "t", None),
        ("a", "two", 4, "m-1", "t", START + 180),
        ("c", None, 2, "m-1", "", START + 120),
    ]
    rows.close()
    alone = Rows(reading.Log(asked=halves.asked), tmp_path, Asked())
    alone.sum_up()
    assert alone.whole().requests == 3
    alone.close()


def test_file_names_are_no_patterns_for_the_reader(make: Make, save: Save, tmp_path: Path) -> None:
    folder = tmp_path / "it's [1] a*b?"
    save(folder / "x[0].parquet", [make(1)])
    save(folder / "x0.parquet", [make(2), make(3)])
    log = reading.read([folder / "x[0].parquet"], tmp_path)
    rows = Rows(log, tmp_path, Asked())
    rows.sum_up()
    assert rows.whole().requests == 1
    rows.close()


def test_too_little_memory_is_said(make: Make, save: Save, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    save(folder / "a.parquet", [make(i, tenant=f"t{i}" * 20) for i in range(20_000)])
    (tmp_path / "spill").write_text("no folder, so nothing can go to disk")
    with (
        pytest.raises(ResourceError, match="--memory"),
        opened(folder, tmp_path / "s", memory="1MB", threads=1),
    ):
        pass


def test_columns_are_those_of_a_total() -> None:
    assert tuple(sql.ONE) == COLUMNS
