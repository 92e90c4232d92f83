"""The usage log as it is written: nothing that a disk does is felt by those who are served."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sprue.errors import InputError
from sprue.usage import record, segments
from sprue.usage.record import Record
from sprue.usage.segments import Segments

Make = Callable[..., Record]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [
        row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]


def lost(folder: Path) -> int:
    found = (pq.read_schema(file).metadata for file in folder.glob("*.parquet"))
    return sum(int(metadata[record.LOST_KEY]) for metadata in found)


def wait_for(holds: Callable[[], bool]) -> None:
    for _ in range(2000):
        if holds():
            return
        time.sleep(0.005)
    raise AssertionError("it never came")


class Disk:
    """Stands between the log and the disk: it can be full, or hang."""

    def __init__(self) -> None:
        self.real = segments._save
        self.error: OSError | None = None
        self.open, self.tried = threading.Event(), 0
        self.open.set()

    def save(self, parquet: Any, table: Any, file: Path) -> None:
        self.tried += 1
        if self.error is not None:
            file.write_bytes(b"PAR1 half of it")
            raise self.error
        self.open.wait()
        self.real(parquet, table, file)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk()
    monkeypatch.setattr(segments, "_save", made.save)
    monkeypatch.setattr(segments, "_RETRY", (0.01, 0.02))
    yield made
    made.open.set()


def test_many_threads_lose_nothing(make: Make, tmp_path: Path) -> None:
    with Segments(tmp_path, rows=100, waiting=10_000) as log:

        def work(first: int) -> None:
            for i in range(first, first + 250):
                assert log.put(make(i))

        threads = [threading.Thread(target=work, args=(250 * k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (log.lost, log.written, log.trouble) == (0, 1000, None)
    assert sorted(row["request"] for row in rows(tmp_path)) == sorted(f"r{i}" for i in range(1000))
    sizes = [pq.read_metadata(file).num_rows for file in tmp_path.iterdir()]
    assert max(sizes) == 100
    assert len(sizes) == len(set(tmp_path.iterdir()))
    assert lost(tmp_path) == 0


def test_a_segment_is_written_when_its_time_has_come(make: Make, tmp_path: Path) -> None:
    log = Segments(tmp_path / "made" / "here", rows=1000, seconds=0.02)
    log.put(make(1))
    wait_for(lambda: log.written == 1)
    log.put(make(2))
    wait_for(lambda: log.written == 2)
    assert len(list((tmp_path / "made" / "here").iterdir())) == 2
    log.close()


def test_the_order_of_files_is_that_of_writing_whatever_the_clock_says(
    make: Make, tmp_path: Path
) -> None:
    with Segments(tmp_path, rows=5) as log:
        for i in range(20):
            log.put(make(time=1e9 - i))
    assert [row["time"] for row in rows(tmp_path)] == [1e9 - i for i in range(20)]


def test_a_disk_that_hangs_is_not_felt_and_what_is_lost_is_told(
    make: Make, tmp_path: Path, disk: Disk
) -> None:
    disk.open.clear()
    log = Segments(tmp_path, rows=10, waiting=30)
    taken = [log.put(make(i)) for i in range(500)]  # would hang here if the disk were waited for
    assert taken == [True] * 30 + [False] * 470
    assert log.lost == 470
    assert len(log._queue) == 30
    disk.open.set()
    wait_for(lambda: log.written == 30)
    assert log.put(make(999))
    log.close()
    assert [row["request"] for row in rows(tmp_path)] == [*(f"r{i}" for i in range(30)), "r999"]
    assert lost(tmp_path) == log.lost == 470


def test_closing_waits_no_longer_than_asked(make: Make, tmp_path: Path, disk: Disk) -> None:
    disk.open.clear()
    log = Segments(tmp_path, rows=10)
    for i in range(25):
        log.put(make(i))
    log.close(timeout=0.05)
    assert log.lost == 25
    assert not log.put(make(1))
    assert log.lost == 26
    disk.open.set()  # what the disk takes in the end was not lost
    wait_for(lambda: log.written == 25)
    wait_for(lambda: lost(tmp_path) == 1)
    assert log.lost == 1


def test_a_full_disk_is_tried_again(make: Make, tmp_path: Path, disk: Disk) -> None:
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    log = Segments(tmp_path, rows=10, waiting=20)
    for i in range(30):
        log.put(make(i))
    wait_for(lambda: disk.tried > 3)
    assert log.trouble == f"No space left on device: {tmp_path}"
    assert list(tmp_path.iterdir()) == []  # nothing half is left lying about
    assert (log.written, log.lost) == (0, 10)
    disk.error = None
    wait_for(lambda: log.written == 20)
    assert log.trouble is None
    log.close()
    assert [row["request"] for row in rows(tmp_path)] == [f"r{i}" for i in range(20)]
    assert lost(tmp_path) == log.lost == 10


def test_a_disk_that_stays_full_loses_all_of_it_by_count(
    make: Make, tmp_path: Path, disk: Disk
) -> None:
    disk.error = OSError(errno.EROFS, "Read-only file system")
    with Segments(tmp_path, rows=10) as log:
        for i in range(25):
            assert log.put(make(i))
    assert (log.lost, log.written) == (25, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_goes_away_is_made_again(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with Segments(folder, rows=1) as log:
        log.put(make(0))
        wait_for(lambda: log.written == 1)
        (next(folder.iterdir())).unlink()
        folder.rmdir()
        log.put(make(1))
    assert log.lost == 0
    assert [row["request"] for row in rows(folder)] == ["r1"]


def test_a_record_that_no_segment_holds_is_lost_alone(make: Make, tmp_path: Path) -> None:
    with Segments(tmp_path) as log:
        for bad in (make(1), make(2, tenant=None), make(3, text=7), make(4, scores=3)):
            log.put(bad)
    assert (log.written, log.lost, lost(tmp_path)) == (1, 3, 3)


def test_what_breaks_the_redaction_does_not_end_the_log(make: Make, tmp_path: Path) -> None:
    def clean(text: str) -> str:
        raise RuntimeError(text)

    with Segments(tmp_path, rows=2, clean=clean) as log:
        log.put(make(1))
        log.put(make(2))
        wait_for(lambda: log.lost == 2)
        assert log.trouble is not None
        assert log.trouble.startswith("RuntimeError")
        log.put(make(3, text=None))
    assert [row["request"] for row in rows(tmp_path)] == ["r3"]
    assert lost(tmp_path) == log.lost == 2


def test_texts_are_redacted_and_cut_and_no_key_is_cut_in_two(make: Make, tmp_path: Path) -> None:
    key = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"
    long = "word " * 19 + key + " end" + "x" * 1_000_000
    with Segments(tmp_path / "a", longest=100) as log:
        log.put(make(1, text="mail jane@example.com"))
        log.put(make(2, text=long))
    first, second = (row["text"] for row in rows(tmp_path / "a"))
    assert first == "mail [email]"
    assert second == "word " * 19 + "[key]"  # without the margin the key's start would be left
    with Segments(tmp_path / "b", keep_text=False) as log:
        log.put(make(1, text="mail jane@example.com"))
    assert [row["text"] for row in rows(tmp_path / "b")] == [None]


def test_long_texts_are_bounded_in_memory(make: Make, tmp_path: Path, disk: Disk) -> None:
    disk.open.clear()
    log = Segments(tmp_path, characters=100_000, longest=5_000)
    taken = sum(log.put(make(i, text="x " * 500_000)) for i in range(100))
    assert taken == 100_000 // 5_512
    assert sum(len(one.text or "") for one in log._queue) <= 100_000
    disk.open.set()
    log.close()
    assert log.written == taken


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Segments(tmp_path / "file")
    for wrong in ({"rows": 0}, {"seconds": 0}, {"waiting": 0}, {"longest": -1}):
        with pytest.raises(InputError, match="must be above 0"):
            Segments(tmp_path, **wrong)  # type: ignore[arg-type]


SCRIPT = """
import resource, signal, sys, threading, time
from sprue.usage import segments
from sprue.usage.record import Record

def fill(log, count):
    for i in range(count):
        log.put(Record(time=1e9, model="m", request=f"r{i}", text=f"{i * 7919 % 10007:b} text"))

"""


def script(body: str, folder: Path) -> subprocess.Popen[str]:
    code = f"{SCRIPT}folder = {str(folder)!r}\n{body}"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_real_limit_of_the_system_loses_records_and_no_more(tmp_path: Path) -> None:
    body = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
log = segments.Segments(folder)
fill(log, 5000)
log.close()
print(log.lost, log.written, log.trouble)
"""
    told, _ = script(body, tmp_path).communicate(timeout=60)
    assert told == f"5000 0 File too large: {tmp_path}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_ends_without_closing_still_writes(tmp_path: Path) -> None:
    process = script("fill(segments.Segments(folder), 5000)", tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(rows(tmp_path)) == 5000


def test_the_child_of_a_fork_writes_what_it_is_given_and_no_more(tmp_path: Path) -> None:
    body = """
import os
log = segments.Segments(folder)
fill(log, 10)
child = os.fork()
fill(log, 5 if child else 3)
if child:
    os.waitpid(child, 0)
log.close()
os._exit(log.lost)
"""
    process = script(body, tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert len(rows(tmp_path)) == 10 + 5 + 3


def test_a_killed_process_leaves_nothing_half_under_a_final_name(tmp_path: Path) -> None:
    body = """
real = segments._save
def slow(parquet, table, file):
    real(parquet, table, file)
    print("written", flush=True)
    time.sleep(60)
segments._save = slow
log = segments.Segments(folder, rows=100)
fill(log, 100)
time.sleep(60)
"""
    process = script(body, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".parquet.partial")
