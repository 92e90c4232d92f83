"""The forecast: sane, and a refusal where the machine has less."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from sprue import models
from sprue.errors import ResourceError
from sprue.plan import design
from sprue.plan import forecast as module
from sprue.plan.demands import Demands
from sprue.plan.forecast import Forecast, Search, forecast
from sprue.plan.goal import Goal

MB = 10**6


def ahead(base6m: Path, windows: int = 64, context: int = 256, **changes: Any) -> Forecast:
    source = models.open(base6m)
    options = {"result": 4 * MB, "surveyed": True, "trellis": True} | changes
    return forecast(source, design.matrices(source), (windows, context), **options)


def test_the_numbers_are_sane(base6m: Path) -> None:
    found = ahead(base6m)
    now = psutil.Process().memory_info().rss
    assert now < found.peak_bytes < now + 600 * MB
    assert 10 * MB < found.added_bytes < 600 * MB
    assert 4 * MB <= found.disk_bytes < 300 * MB
    assert 1 < found.seconds < 3600


def test_more_work_takes_more(base6m: Path) -> None:
    small, long, many = ahead(base6m), ahead(base6m, context=2048), ahead(base6m, windows=640)
    for more in (long, many):
        assert more.added_bytes >= small.added_bytes
    assert long.disk_bytes > small.disk_bytes
    assert ahead(base6m, result=9 * MB).disk_bytes == small.disk_bytes + 5 * MB


def test_quick_presets_take_less_time(base6m: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_coding_seconds", lambda: 1e-5)
    monkeypatch.setattr(module, "flops_per_second", lambda: 1e11)
    slow, quick = ahead(base6m), ahead(base6m, surveyed=False, trellis=False)
    assert quick.seconds < slow.seconds
    assert quick.disk_bytes <= slow.disk_bytes


def test_looking_for_zeros_takes_more(base6m: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_coding_seconds", lambda: 1e-5)
    monkeypatch.setattr(module, "flops_per_second", lambda: 1e11)
    asked = [(None, False), (Search(), False), (Search(14), False), (Search(14), True)]
    none, once, tried, refined = (ahead(base6m, search=s, refined=r) for s, r in asked)
    assert none.seconds < once.seconds < tried.seconds < refined.seconds
    without, beside = (ahead(base6m, search=s, surveyed=False) for s in (None, Search()))
    assert without.added_bytes < beside.added_bytes


def test_what_is_looked_for_follows_from_the_goal(base6m: Path) -> None:
    parts = design.matrices(models.open(base6m))

    def searches(preset: str | None, demands: Demands) -> Search | None:
        return Goal.stated(preset, None, None, None, 0, demands).searches(parts)

    half, pairs = Demands(sparsity=0.5), Demands(pattern="2:4")
    assert searches(None, Demands()) is None
    assert searches("sparsegpt", half) is None  # a sweep, not a search
    assert searches("slim", pairs) == Search(0)
    assert searches(None, pairs) == Search(2)
    assert searches(None, half) == Search(len(half.menu((256, 256))))


def test_it_is_said_in_one_line() -> None:
    assert Forecast(1_234 * MB, MB, 999, 3.2).line() == (
        "about 1.2 GB of memory at the peak, 999 bytes of disk, 3 seconds"
    )
    assert Forecast(2 * MB, MB, 12_345, 0.1).line().endswith("12 kB of disk, 1 seconds")
    assert Forecast(2 * MB, MB, 0, 600).line().endswith("10 minutes")
    assert Forecast(2 * MB, MB, 0, 9000).line().endswith("2.5 hours")
    assert Forecast(999_600_000, MB, 0, 1).line().startswith("about 1.0 GB")


def test_less_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=99 * MB))
    Forecast(200 * MB, 99 * MB, 0, 1).check(tmp_path)
    with pytest.raises(ResourceError, match=r"100 MB more memory .* has 99 MB available: take"):
        Forecast(200 * MB, 100 * MB, 0, 1).check(tmp_path)


def test_less_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=5 * MB))
    Forecast(0, 0, 5 * MB, 1).check(tmp_path)
    with pytest.raises(ResourceError, match=r"6 MB of disk and .* has 5 MB: free some space"):
        Forecast(0, 0, 6 * MB, 1).check(tmp_path)


def test_it_is_part_of_the_report() -> None:
    told = Forecast(1, 2, 3, 4.0).as_dict()
    assert told == {"peak_bytes": 1, "added_bytes": 2, "disk_bytes": 3, "seconds": 4.0}
