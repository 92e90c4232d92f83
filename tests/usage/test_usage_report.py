"""What a ranking says: in a terminal, as JSON, on a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sprue.rank import rank
from sprue.usage import words
from sprue.usage.record import Record
from sprue.usage.report import RankReport

Make, Save = Callable[..., Record], Callable[..., Path]
EVIL = "<script>alert('x')</script>\x1b[31m"


@pytest.fixture
def report(make: Make, save: Save, tmp_path: Path) -> RankReport:
    """Two days of requests, odd names among them, beside a file that cannot be read."""
    some = [
        make(
            i,
            capability=[EVIL, "legal", "legal", "code", None][i % 5],
            tenant=["acme", EVIL, ""][i % 3],
            model=["full", "small"][i % 2],
            flops=[5e12, 1e12, 1e12, 2e12, 1e12][i % 5],
            text=f"how do I renew my passport in town {i % 7}" if i % 5 == 4 else "x",
        )
        for i in range(3000)
    ]
    save(tmp_path / "a.parquet", some, **{"sprue.usage.lost": b"3"})
    (tmp_path / "b<b>.parquet").write_text("broken")
    return rank(tmp_path, top=2)


def test_the_figures_are_those_of_the_log(report: RankReport) -> None:
    told = json.loads(json.dumps(report.as_dict()))
    assert told["by"] == "compute"
    assert told["total"]["requests"] == 3000
    assert told["total"]["flops"] == 600 * 10**13
    first, second = told["capabilities"]
    assert (first["name"], first["share"]["compute"]) == (EVIL, 0.5)
    assert (second["name"], second["share"]["compute"]) == ("code", 0.2)  # legal: as much, later
    assert second["share"]["requests"] == 0.2
    assert told["rest"]["count"] == 1
    assert told["rest"]["requests"] == 1200
    assert told["unknown"]["share"]["compute"] == 0.1
    assert told["total"]["cpu_seconds"] == 3000 * 0.25
    assert told["log"]["lost"] == 3
    ((named, reason),) = ((one["file"], one["reason"]) for one in told["log"]["skipped"])
    assert named.endswith("b<b>.parquet")
    assert reason.startswith("damaged")
    assert [m["name"] for m in told["models"]] == ["full", "small"]
    assert told["tenant_count"] == 3
    assert len(told["tenants"]) == 2
    for tenant in told["tenants"]:
        inside = sum(one["requests"] for one in tenant["capabilities"])
        assert inside == tenant["requests"] == 1000
    assert told["time"]["unit"] == "hour"
    assert len(told["time"]["starts"]) == 50
    every = [sum(one["compute"]) for one in told["time"]["capabilities"]]
    assert every == [3000 * 10**12, 1200 * 10**12, 600 * 10**12]
    (need,) = told["needs"]["found"]
    assert need["requests"] == 600
    assert need["share_of_unknown"] == 1.0
    assert need["examples"][0].startswith("how do I renew my passport in town")


def test_the_terminal_shows_no_more_than_text(report: RankReport) -> None:
    table = report.table()
    assert "\x1b" not in table
    assert "takes 50.0% of the compute" in table
    assert "(1 more)" in table
    assert "3 requests lost before they could be written" in table
    assert "left out: " in table
    assert "b<b>.parquet: damaged" in table
    assert re.search(r"passport.* 600 +100\.0% +20\.0%", table)
    assert max(map(len, table.splitlines()[2:8])) < 200


class Checker(HTMLParser):
    """Counts what opens and closes, and collects what would be loaded or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.bad: list[str] = []
        self.plots = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.plots += tag == "svg" and ("role", "img") in attrs
        names = {name for name, _ in attrs}
        if tag in ("script", "link", "img", "iframe", "object") or names & {"src", "href"}:
            self.bad.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing(report: RankReport) -> None:
    page = report.html()
    checker = Checker()
    checker.feed(page)
    assert (checker.open, checker.bad) == ([], [])
    assert checker.plots == 5
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert "b&lt;b&gt;.parquet" in page
    assert "renew my passport" in page
    assert page == report.html()
    assert set(re.findall(r"\w+://[^\"\s]+", page)) == {"http://www.w3.org/2000/svg"}  # a name


def test_one_row_is_a_log_too(make: Make, save: Save, tmp_path: Path) -> None:
    for name, changes in (
        ("bare", {"capability": None, "flops": None, "tokens_in": None, "tokens_out": None}),
        ("timeless", {"time": float("nan")}),
        ("still", {"flops": 0.0}),
    ):
        save(tmp_path / name / "a.parquet", [make(1, **changes)])
        found = rank(tmp_path / name)
        assert found.whole.requests == 1
        for told in (found.table(), found.html(), json.dumps(found.as_dict())):
            assert not re.search(r"\bnan\b", told.lower())
    assert rank(tmp_path / "bare").by == "requests"
    assert rank(tmp_path / "still").by == "tokens"


@pytest.mark.parametrize(
    ("value", "told"),
    [(0, "0"), (7, "7"), (999, "999"), (999.9, "1 k"), (12_345, "12.3 k"), (10**6, "1 M"),
     (999_999_999, "1 G"), (2.5e18, "2.5 E"), (3e22, "3e+04 E")],
)  # fmt: skip
def test_amounts(value: float, told: str) -> None:
    assert words.amount(value) == told


def test_sparks_show_the_shape() -> None:
    assert words.spark([]) == ""
    assert words.spark([0, 0]) == "▁▁"
    assert words.spark([0, 1, 2, 4]) == "▁▃▅█"
    assert len(words.spark(range(1000))) <= 24


def test_tables_leave_out_what_says_nothing() -> None:
    table = words.aligned(("a", "b", "c"), [("x", "", "1"), ("long", "", "22")], range(1, 3))
    assert table == "a      c\nx      1\nlong  22"
