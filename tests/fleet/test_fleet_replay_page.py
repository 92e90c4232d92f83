"""The page of a replay, from figures that were made up."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from sprue.fleet.clocked import Times
from sprue.fleet.replay_report import TOTAL, UNNAMED, Group, Point, ReplayReport, Worse
from sprue.proof.intervals import Estimate
from sprue.proof.machine import Machine

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('x')</script>\x1b[31m"
RATIO = "How much less likely the fleet finds the answers"
CURVE = "What handing over costs and buys"
PARTS, LATENCY = "Where the compute goes", "Latency"


def worse(ratio: float, reach: float = 0.004) -> Worse:
    return Worse(Estimate(ratio, ratio - reach, ratio + reach), ratio + 0.84 * reach)


def group(name: str, ratio: float, needs: int, saved: float, **changes: Any) -> Group:
    made = Group(
        name=name,
        needs=needs,
        tokens=96 * needs,
        perplexity=(20.0 + len(name), (20.0 + len(name)) * ratio),
        worse=worse(ratio),
        flops=(1.7e9 * needs, 1.7e9 * needs * (1 - saved)),
        to_specialists=0.9,
        handed=0.123,
        by_full=0.155,
    )
    return replace(made, **changes)


def reserve(threshold: float | str, hold: int | None = None) -> dict[str, Any]:
    return {"threshold": threshold, "doubt": "entropy", "hold": hold, "over": 16}


def report(**changes: Any) -> ReplayReport:
    shares = [i / 20 for i in range(21)]
    made = ReplayReport(
        log=("log.jsonl",),
        fleet="fleet.yaml",
        keep=0.99,
        total=group(TOTAL, 1.0042, 1232, 0.4617, to_specialists=0.8125, by_full=0.2637),
        groups=(
            group("legal", 1.0061, 517, 0.5813),
            group("code", 1.0023, 320, 0.5544),
            group("security", 1.0117, 209, 0.4321),
            group("stories", 1.0001, 99, 0.0, to_specialists=0.0, handed=0.0, by_full=1.0),
            group(UNNAMED, 1.0008, 1, 0.021, worse=None),
        ),
        requests=1100,
        several=132,
        split=0.9621,
        right=0.9341,
        unanswered=0,
        skipped=0,
        parts={
            "cutting": 0.5612,
            "router": -0.0031,
            "reserve": -0.0874,
            "prompts_of_unsplit_requests": -0.009,
            "left_to_the_full_model": 0.1875,
        },
        curve=tuple(
            Point(s, 0.56 - 0.5 * s - 0.16 * s**4, worse(1.0004 + 0.017 * math.exp(-5 * s)))
            for s in shares
        ),
        reserves={"legal": reserve(0.61234), "code": reserve("never", 4), "x": reserve("always")},
        models={
            "full": {"bytes": 11_540_992, "flops": 11_534_336, "needs": 231},
            "legal": {"bytes": 2_398_148, "flops": 4_605_440, "needs": 541},
            "code": {"bytes": 2_401_000, "flops": 4_600_000, "needs": 460},
        },
        times=tuple(
            Times((0.4 + 0.01 * i, 0.38 + 0.01 * i), (0.21 + 0.008 * (i % 7), 0.2 + 0.004 * i))
            for i in range(60)
        ),
        machine=Machine("A CPU", 2, 1, 8 << 30, "Linux x86_64", None, {"sprue": "0"}, "2026"),
    )
    return replace(made, **changes)


class Outline(HTMLParser):
    """What is not closed, and what would be loaded or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        if tag in ("script", "link", "img", "iframe", "object") or names & {"src", "href"}:
            self.bad.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(made: ReplayReport) -> tuple[str, dict[str, ElementTree.Element]]:
    """The page and its plots by title, after what holds for every page."""
    page = made.html()
    outline = Outline()
    outline.feed(page)
    assert (outline.open, outline.bad) == ([], [])
    assert set(re.findall(r"\w+://[^\"\s]+", page)) <= {"http://www.w3.org/2000/svg"}  # a name
    assert "url(" not in page
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"<style>.*?</style>", "", page, flags=re.S))
    every = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    found = {str(d.get("aria-label")).partition(":")[0]: d for d in every if d.get("role") == "img"}
    for drawing in found.values():
        assert len(drawing.get("aria-label") or "") > 20
        width, height = (float(v) for v in (drawing.get("viewBox") or "").split()[2:])
        for mark in drawing.iter():
            for side, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                assert -1 <= float(mark.get(side) or 0) <= most + 1
    return page, found


def words_of(drawing: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in drawing.iter(f"{SVG}text")]


def test_the_page_is_whole_and_asks_for_nothing() -> None:
    made = report()
    page, found = checked(made)
    assert list(found) == [RATIO, CURVE, PARTS, LATENCY]
    assert page == made.html()
    assert "prefers-color-scheme: dark" in page
    assert "default-src 'none'" in page
    assert "To know" not in page


def test_it_shows_the_figures_of_the_json() -> None:
    made = report()
    told = json.loads(json.dumps(made.as_dict()))
    page, found = checked(made)
    assert f"<h1>{told['statement']}</h1>" in page
    assert "46.2% of the FLOPs and 52.9% of the CPU seconds saved" in page
    assert told["saved"]["cpu_seconds"]["value"] == pytest.approx(1 - 19.08 / 40.5)
    low, high = (100 * told["saved"]["cpu_seconds"][end] for end in ("low", "high"))
    assert f"{low:.1f}% to {high:.1f}%" in page
    rows = page.partition('<table class="small groups">')[2].split("<tr")
    for one in (*told["capabilities"], told["total"]):
        row = next(r for r in rows if f'<th scope="row">{one["name"]}</th>' in r)
        for value in (
            f"<td>{one['needs']:,}</td><td>{one['tokens']:,}</td>",
            f"<td>{one['perplexity']['full']:.3f}</td><td>{one['perplexity']['fleet']:.3f}</td>",
            f"<td>{100 * one['saved']:.1f}%</td><td>{100 * one['to_specialists']:.1f}%</td>",
            f"<td>{100 * one['by_full']:.1f}%</td>",
            {True: ">yes<", False: ">no<", None: ">too few<"}[one["passed"]],
        ):
            assert value in row
        ratio = one["perplexity_ratio"]
        if ratio:
            assert f"{ratio['value']:.4f}<small>{ratio['low']:.4f} to {ratio['high']:.4f}" in row
            assert f"<td>{math.floor(1e4 * ratio['kept_at_least']) / 100:.2f}%</td>" in row
    assert {"−56.1%", "+0.3%", "+8.7%", "+0.9%", "18.8%", "53.8%", "46.2%", "100.0%"} <= {
        *words_of(found[PARTS])
    }
    seconds = told["latency_seconds"]
    for who in ("full", "fleet"):
        for name in ("p50", "p95"):
            assert f"{1000 * seconds[who][name]:.0f} ms" in words_of(found[LATENCY])
    for name, one in told["models"].items():
        assert f'<th scope="row">{name}</th><td>{one["bytes"] / 1e6:.2f} MB</td>' in page
        assert f"<td>{one['needs']}</td>" in page
    for value in ("0.6123", "never called", "always called", "16 steps", "4 tokens", "the rest of",
                  "1,100", "132", "96.2%", "93.4%", "A CPU", "60 requests"):  # fmt: skip
        assert value in page
    assert page.count("handed over, ") >= len(told["curve"])


@pytest.mark.parametrize(
    ("keep", "pill", "mood"),
    [(0.99, "Quality kept", "passed"), (0.999, "Quality NOT kept", "failed")],
)
def test_the_verdict_is_said_first(keep: float, pill: str, mood: str) -> None:
    page, found = checked(report(keep=keep))
    assert f'<span class="pill {mood}">{pill}</span>' in page
    assert (f": {100 * keep:.4g}% NOT kept" in page) == (mood == "failed")
    assert f"{1 / keep:.4f} is allowed" in str(found[RATIO].get("aria-label"))
    dashed = [x for x in found[RATIO].iter(f"{SVG}line") if x.get("class") == "rule dashed"]
    assert len(dashed) == 5  # four capabilities with an interval, and all
    across = [x for x in found[CURVE].iter(f"{SVG}line") if x.get("class") == "rule dashed"]
    assert len(across) == 1


def test_the_waterfall_ends_at_what_the_fleet_computes() -> None:
    made = report()
    steps = {name: v for name, v in made.parts.items() if name != "left_to_the_full_model"}
    assert sum(steps.values()) == pytest.approx(made.total.saved)
    _, found = checked(made)
    bars = [
        (str(r.get("class")), float(r.get("x") or 0), float(r.get("width") or 0))
        for r in found[PARTS].iter(f"{SVG}rect")
    ]
    kinds = [kind for kind, _, _ in bars]
    assert kinds == ["bar outside", "saves", *["costs"] * 3, "bar", "bar outside", "saves"]
    (_, zero, whole), *walk, fleet, left, saved = bars
    at = zero + whole
    for kind, x, width in walk:
        assert at == pytest.approx(x + width if kind == "saves" else x, abs=0.02)
        at = x if kind == "saves" else x + width
    assert at == pytest.approx(zero + fleet[2], abs=0.05)
    assert left[2] == pytest.approx(0.1875 * whole, abs=0.02)
    assert (saved[1], saved[2]) == (
        pytest.approx(at, abs=0.05),
        pytest.approx(0.4617 * whole, abs=0.05),
    )


def test_a_fleet_that_spends_more_can_be_drawn() -> None:
    parts = {"cutting": 0.1, "router": -0.05, "reserve": -0.5, "left_to_the_full_model": 0.0}
    total = group(TOTAL, 0.9991, 50, -0.45)
    page, found = checked(report(total=total, groups=(), parts=parts))
    assert "−45.0%" in words_of(found[PARTS])
    assert "145.0%" in words_of(found[PARTS])
    assert "−45.0%" in page


def test_the_point_that_was_used_is_marked() -> None:
    made = report()
    _, found = checked(made)
    (mark,) = [p for p in found[CURVE].iter(f"{SVG}polygon") if p.get("class") == "mark m1"]
    corners = [tuple(map(float, c.split(","))) for c in (mark.get("points") or "").split()]
    x = sum(c[0] for c in corners) / 4
    dots = [c for c in found[CURVE].iter(f"{SVG}circle") if c.get("class") == "mark m0"]
    places = sorted(
        (float(c.get("cx") or 0), p.saved) for c, p in zip(dots, made.curve, strict=True)
    )
    (a, low), (b, high) = places[0], places[-1]
    assert (x - a) / (b - a) == pytest.approx((0.4617 - low) / (high - low), abs=1e-3)
    assert "used: 46.2%" in str(found[CURVE].get("aria-label"))


def test_one_capability_no_reserves_no_curve_no_timing() -> None:
    (first, *_) = report().groups
    page, found = checked(
        report(groups=(first,), reserves={}, curve=(), times=(), split=None, right=None, several=0)
    )
    assert list(found) == [RATIO, PARTS]
    assert "There is none: what a specialist gets it answers to the end." in page
    assert "Nothing was served by the clock" in page
    assert "too few requests were timed" in page
    assert "Taken apart into as many" not in page
    assert "Went where the log says" not in page


def test_one_timed_request_has_a_latency_and_no_interval() -> None:
    page, found = checked(report(times=(Times((2.5, 2.4), (1.25, 1.2)),)))
    assert {"2.50 s", "1.25 s"} <= set(words_of(found[LATENCY]))
    assert "Of 1 request served" in page
    assert "too few requests were timed" in page


def test_no_interval_proves_nothing() -> None:
    total = group(TOTAL, 1.0, 2, 0.5, worse=None)
    made = report(
        total=total, groups=(replace(total, name="legal"),), curve=(), models={}, parts={}
    )
    page, found = checked(made)
    assert list(found) == [LATENCY]
    assert "Too few requests to tell" in page
    assert "nothing is proven" in page
    assert page.count(">too few<") == 2


def test_what_was_left_out_is_said() -> None:
    page, _ = checked(report(skipped=3, unanswered=1))
    assert "3 lines of the log could not be read." in page
    assert "1 request of the log without an answer" in page


def test_names_from_outside_stay_text() -> None:
    made = report(
        log=(EVIL, "b", "c", "d"),
        fleet=EVIL,
        groups=(group(EVIL, 1.002, 9, 0.3),),
        reserves={EVIL: reserve(0.5)},
        models={EVIL: {"bytes": 1, "flops": 2, "needs": 3}},
    )
    page, _ = checked(made)
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert "and 1 more" in page


def test_many_capabilities_are_all_in_the_table_and_the_first_in_the_plot() -> None:
    many = tuple(group(f"kind{i:03d}", 1.001, 50, 0.4) for i in range(40))
    page, found = checked(report(groups=many))
    assert page.count('<th scope="row">kind') == 40
    assert sum(word.startswith("kind") for word in words_of(found[RATIO])) == 12
    assert "The 12 capabilities that take most." in page
