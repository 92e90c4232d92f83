"""Which files are a log: what cannot be read is named, never passed over in silence."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sprue.errors import InputError, ResourceError
from sprue.usage import reading, record
from sprue.usage.reading import Log
from sprue.usage.record import Record

Make, Save = Callable[..., Record], Callable[..., Path]
CHAT = {"model": "m", "prompt": "hello", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def count(log: Log) -> int:
    return sum(pq.read_metadata(f).num_rows for f in (*log.segments, *log.asked, *log.answered))


def write_lines(file: Path, *lines: Any) -> Path:
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    return file


def test_files_folders_and_patterns_are_read_once(
    make: Make, save: Save, tmp_path: Path, scratch: Path
) -> None:
    logs = tmp_path / "logs"
    save(logs / "a.parquet", [make(1)])
    save(logs / "deep" / "er" / "b.parquet", [make(2)])
    save(logs / "no ending", [make(3)])  # in a folder the ending counts
    write_lines(logs / "c.jsonl", CHAT, CHAT)
    (logs / "readme.md").write_text("no log")
    log = reading.read([logs, logs / "a.parquet", f"{logs}/*.jsonl"], scratch, threads=2)
    assert [Path(name).name for name in log.files] == ["a.parquet", "b.parquet", "c.jsonl"]
    assert count(log) == 4
    assert (log.other, log.skipped, log.converted) == (2, [], 2)
    alone = reading.read([logs / "no ending"], scratch)  # of a file that is named its content
    assert count(alone) == 1


def test_names_that_look_like_patterns_are_names(
    make: Make, save: Save, tmp_path: Path, scratch: Path
) -> None:
    odd = tmp_path / "it's [1] a*b?"
    save(odd / "x[0].parquet", [make(1)])
    assert reading.read([odd], scratch).files == [str(odd / "x[0].parquet")]
    assert reading.read([odd / "x[0].parquet"], scratch).files == [str(odd / "x[0].parquet")]


def test_no_flipped_bit_ever_becomes_another_number(
    make: Make, save: Save, tmp_path: Path, scratch: Path
) -> None:
    good = save(tmp_path / "logs" / "good.parquet", [make(i) for i in range(300)])
    whole, content = pq.read_table(good), good.read_bytes()
    bad, draw, named = tmp_path / "logs" / "bad.parquet", random.Random(0), 0
    for _ in range(150):
        torn = bytearray(content)
        torn[draw.randrange(len(torn))] ^= 1 << draw.randrange(8)
        bad.write_bytes(bytes(torn))
        log = reading.read([tmp_path / "logs"], scratch)
        if log.files == [str(good)]:
            ((file, why),) = ((one.file, one.reason) for one in log.skipped)
            assert file == str(bad)
            assert why
            named += 1
        else:  # of the footer, what nobody reads
            assert pq.read_table(bad).equals(whole)
    assert named >= 90


def test_every_kind_of_foreign_or_damaged_file_is_named(
    make: Make, save: Save, tmp_path: Path, scratch: Path
) -> None:
    logs = tmp_path / "logs"
    whole = save(logs / "whole.parquet", [make(1)])
    content = whole.read_bytes()
    (logs / "empty.parquet").write_bytes(b"")
    (logs / "torn.parquet").write_bytes(content[:-20])
    (logs / "text.parquet").write_text("no Parquet at all, but long enough to be one")
    table = record.table([make(1)])[0]
    pq.write_table(table.replace_schema_metadata({}), logs / "foreign.parquet")
    later = {record.VERSION_KEY: b"2"}
    pq.write_table(table.replace_schema_metadata(later), logs / "later.parquet")
    pq.write_table(table.drop_columns(["flops"]), logs / "less.parquet")
    as_text = table.set_column(0, "time", pa.array(["now"]))
    pq.write_table(as_text.replace_schema_metadata(table.schema.metadata), logs / "other.parquet")
    bytes_ = pa.array([b"\xff\xfe"]).buffers()
    wrong = table.set_column(13, "text", pa.Array.from_buffers(pa.string(), 1, bytes_))
    pq.write_table(wrong.replace_schema_metadata(table.schema.metadata), logs / "latin.parquet")
    (logs / "left.parquet.partial").write_bytes(content[:100])
    (logs / "blank.jsonl").write_text("\n\n")
    write_lines(logs / "mixed.jsonl", CHAT, {"level": "info"}, [1], CHAT)
    write_lines(logs / "alien.jsonl", {"level": "info"}, {"level": "warn"})
    log = reading.read([logs], scratch)
    assert [Path(name).name for name in log.files] == ["whole.parquet", "mixed.jsonl"]
    assert log.unfinished == [str(logs / "left.parquet.partial")]
    told = {Path(one.file).name: (one.lines, one.reason) for one in log.skipped}
    assert set(told) == {
        *("empty.parquet", "torn.parquet", "text.parquet", "foreign.parquet", "later.parquet"),
        *(
            "less.parquet",
            "other.parquet",
            "latin.parquet",
            "blank.jsonl",
            "mixed.jsonl",
            "alien.jsonl",
        ),
    }
    assert told["foreign.parquet"][1].startswith("no segment of a usage log")
    assert told["later.parquet"][1] == "a segment of version 2, where this sprue reads 1"
    assert told["less.parquet"][1] == "no column 'flops'"
    assert told["other.parquet"][1] == "column 'time': expected double, got string"
    assert told["mixed.jsonl"] == (
        2,
        "line 2: neither messages nor usage in it: no chat completion",
    )
    assert told["alien.jsonl"][0] is None
    assert told["blank.jsonl"][1] == "empty: no line in it"
    assert all(told[name][1].startswith("damaged: ") for name in ("torn.parquet", "latin.parquet"))


def test_what_was_lost_before_is_added_up(
    make: Make, save: Save, tmp_path: Path, scratch: Path
) -> None:
    key = record.LOST_KEY.decode()
    save(tmp_path / "a.parquet", [make(1)], **{key: b"7"})
    save(tmp_path / "b.parquet", [], **{key: b"5"})
    save(tmp_path / "c.parquet", [make(1)], **{key: b"-1"})
    assert reading.read([tmp_path], scratch).lost == 12


def test_nothing_to_read_says_why(make: Make, tmp_path: Path, scratch: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for logs, why in (
        ([], "no log given"),
        ([tmp_path / "none"], "no such file or folder"),
        ([f"{tmp_path}/*.parquet"], "no such file or folder"),
        ([empty], "no log in .*found nothing"),
    ):
        with pytest.raises(InputError, match=why):
            reading.read(logs, scratch)
    (empty / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="found 1 file with other endings"):
        reading.read([empty], scratch)
    for i in range(8):
        (empty / f"{i}.parquet").write_bytes(b"bad")
    with pytest.raises(InputError, match=r"nothing in the log can be read: .*and 3 more"):
        reading.read([empty], scratch)


def test_a_folder_and_a_file_that_may_not_be_read_are_named(
    make: Make, save: Save, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "logs"
    good = save(logs / "good.parquet", [make(1)])
    save(logs / "shut" / "b.parquet", [make(1)])
    write_lines(logs / "shut.jsonl", CHAT)
    real, opened = os.scandir, Path.open

    def scandir(path: Any) -> Any:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    def refusing(path: Path, *args: Any, **options: Any) -> Any:
        if path.name == "shut.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "open", refusing)
    log = reading.read([logs], scratch)
    assert log.files == [str(good)]
    assert [str(one) for one in log.skipped] == [
        f"{logs / 'shut'}: Permission denied",
        f"{logs / 'shut.jsonl'}: Permission denied",
    ]


def test_no_room_to_convert_is_said(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", CHAT)
    with pytest.raises(ResourceError, match="TMPDIR"):
        reading.read([file], tmp_path / "no" / "such")
