"""The page of a specialist, from figures that were made up."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from sprue.fleet import plots
from sprue.fleet.specialist import Compared, SpecialistReport
from sprue.proof.intervals import Estimate

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('x')</script>\x1b[31m"


def compared(name: str, ratio: float, needs: int = 400) -> Compared:
    low, high = ratio / 1.02, ratio * 1.02
    return Compared(name, needs, 20.0, 20 * ratio, Estimate(ratio, low, high), 1.017 * ratio)


def look(step: int, kept: float, seconds: float) -> dict[str, float]:
    return {"step": step, "seconds": seconds, "kept": kept, "kl_nats": 0.5 - 0.4 * kept}


def report(**changes: Any) -> SpecialistReport:
    count = 1000
    made = SpecialistReport(
        out=Path("out/legal"),
        capability="legal",
        model="path/to/full",
        keep=0.9,
        own=compared("legal", 1.0123),
        forgotten=(compared("code", 357.4, 60), compared("stories", 11.6, 61)),
        nbytes=(11_540_992, 2_398_148),
        flops=(11_534_336, 4_605_440),
        shape={"layers": (6, 5), "heads": (4, 2), "neurons": (768, 220), "vocabulary": (4096, 731)},
        outside=0.0078,
        looks=tuple(
            look(50 * i, 0.98 - 0.5 * math.exp(-i / 2), 45.0 * i) for i in range(count // 50 + 1)
        ),
        losses=tuple(2 + math.exp(-i / 200) + 0.1 * math.sin(7 * i) for i in range(count)),
        seconds=942.5,
        told={
            "layers": [0, 1, 2, 4, 5],
            "before_quantization": compared("before quantization", 1.0101).as_dict(),
            "kl_nats_before_teaching": 0.7261,
            "whole_vocabulary": None,
            "seed": 7,
            "full_sha256": "ab" * 32,
            "files": ["train.txt"],
            "documents": {"learned": 506, "watched": 73, "proven": 185},
            "skipped_lines": 0,
        },
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


def drawings(page: str) -> list[ElementTree.Element]:
    found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    return [one for one in found if one.get("role") == "img"]


def checked(made: SpecialistReport) -> tuple[str, list[ElementTree.Element]]:
    """The page and its plots, after what holds for every page."""
    page = made.html()
    outline = Outline()
    outline.feed(page)
    assert (outline.open, outline.bad) == ([], [])
    assert set(re.findall(r"\w+://[^\"\s]+", page)) == {"http://www.w3.org/2000/svg"}  # a name
    assert "url(" not in page
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<style>.*?</style>", "", page, flags=re.S))
    found = drawings(page)
    for drawing in found:
        assert len(drawing.get("aria-label") or "") > 20
        width, height = (float(v) for v in (drawing.get("viewBox") or "").split()[2:])
        for mark in drawing.iter():
            for side, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                assert -1 <= float(mark.get(side) or 0) <= most + 1
    return page, found


def titles(found: Sequence[ElementTree.Element]) -> list[str]:
    return [(one.get("aria-label") or "").partition(":")[0] for one in found]


def test_the_page_is_whole_and_asks_for_nothing() -> None:
    made = report()
    page, found = checked(made)
    assert titles(found) == [
        "What it has forgotten",
        "What is left of the original's costs",
        "What was kept while it learned",
        "Loss of the training",
    ]
    assert page == made.html()
    assert "prefers-color-scheme: dark" in page
    assert "default-src 'none'" in page


def test_it_shows_the_figures_of_the_json() -> None:
    made = report()
    told = json.loads(json.dumps(made.as_dict(full=True)))
    page, _ = checked(made)
    assert f"<h1>{told['statement']}</h1>" in page
    for text in (told["own"], *told["forgotten"]):
        both = text["perplexity"]
        for value in (both["full"], both["specialist"]):
            assert f"<td>{value:,.3f}</td>" in page
        assert f"<td>{plots.times(text['ratio']['value'])}</td>" in page
        assert f"<td>{text['needs']}</td>" in page
    assert "<td>97.13%</td>" in page  # of its own kept at least: 1 / (1.017 * 1.0123)
    assert "<td>1.0101</td>" in page  # before quantization
    for pair in (told["bytes"], told["flops"], *told["shape"].values()):
        a, b = pair["full"], pair["specialist"]
        assert f"<td>{a:,}</td><td>{b:,}</td><td>{100 * b / a:.1f}%</td>" in page
    for value in ("15.7", "0.8%", "0.726 nats", "0, 1, 2, 4, 5", "ab" * 32, "506", "train.txt"):
        assert value in page
    assert page.count("</circle>") > len(told["looks"])
    assert "1,000 steps, from" in page
    assert "Cut from the full model: layers, heads, neurons, vocabulary." in page


@pytest.mark.parametrize(("keep", "pill"), [(0.9, "Admitted"), (0.99, "NOT admitted")])
def test_the_verdict_is_said_first(keep: float, pill: str) -> None:
    page, found = checked(report(keep=keep))
    mood = "passed" if pill == "Admitted" else "failed"
    assert f'<span class="pill {mood}">{pill}</span>' in page
    assert "dmitted: perplexity on legal 20.000 for the full model, 20.246" in page
    assert "; 1.1111 is allowed" in page if keep == 0.9 else "; 1.0101 is allowed" in page
    dashed = [line for line in found[0].iter(f"{SVG}line") if line.get("class") == "rule dashed"]
    solid = [line for line in found[0].iter(f"{SVG}line") if line.get("class") == "rule"]
    assert len(dashed) == len(solid) == 3
    assert float(dashed[0].get("x1") or 0) > float(solid[0].get("x1") or 0)


def test_ratios_stand_where_their_logarithms_do() -> None:
    rows = [plots.Row(n, Estimate(r, r, r), r) for n, r in (("a", 1.0), ("b", 10.0), ("c", 1000.0))]
    drawing = ElementTree.fromstring(plots.ratios("t", rows, 1.01, "x"))
    xs = [float(c.get("cx") or 0) for c in drawing.iter(f"{SVG}circle")]
    assert (xs[2] - xs[0]) / (xs[1] - xs[0]) == pytest.approx(3, rel=1e-3)
    ticks = [text.text for text in drawing.iter(f"{SVG}text") if text.get("class") == "tick"]
    assert {"1", "2", "5", "10", "100", "1000"} <= set(ticks)


@pytest.mark.parametrize(
    ("low", "high", "some"),
    [(0.995, 1.02, [1.0, 1.01]), (0.9, 30, [1, 2, 20]), (2e-9, 3e9, [1e-8, 1.0, 1e8]), (2, 2, [2])],
)
def test_ticks_of_a_logarithmic_axis(low: float, high: float, some: list[float]) -> None:
    found = plots._ticks(low, high)
    assert 1 <= len(found) <= 12
    assert all(low <= tick <= high for tick in found)
    assert all(any(math.isclose(tick, one) for tick in found) for one in some)


def test_names_from_outside_stay_text() -> None:
    told = {**report().told, "files": [EVIL] * 7, "whole_vocabulary": EVIL, "skipped_lines": 2}
    page, _ = checked(
        report(
            capability=EVIL,
            model=EVIL,
            out=Path(EVIL),
            own=compared(EVIL, 1.01),
            forgotten=(compared(EVIL, 2.0),),
            shape={EVIL: (4, 2)},
            told=told,
        )
    )
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert "and 2 more" in page
    assert "The vocabulary was left whole" in page
    assert "2 lines of the logs could not be read" in page


def test_nothing_learned_nothing_forgotten_nothing_told() -> None:
    page, found = checked(report(looks=(), losses=(), forgotten=(), told={}, shape={}))
    assert titles(found) == ["What it keeps", "What is left of the original's costs"]
    assert "There was none" in page
    assert "taught by the full model" not in page
    assert "No part was cut out." in page


def test_few_looks_and_steps_can_be_drawn() -> None:
    _, found = checked(report(looks=(look(0, 1.0, 0.0),), losses=(2.0,), keep=1.0))
    assert len(found) == 4
    short = (look(0, 0.5, 0.0), look(3, 0.97, 0.0))
    page, _ = checked(report(looks=short, losses=(2.0, 1.5, 1.0)))
    assert ">steps</text>" in page
    wild = replace(compared("code", 5.0, 2), ratio=Estimate(5.0, 0.0, 1e40), at_most=1e20)
    checked(report(forgotten=(wild,)))


def test_time_is_told_in_its_unit() -> None:
    assert ">minutes of training</text>" in checked(report())[0]
    fast = (look(0, 0.5, 0.0), look(3, 0.9, 44.0))
    assert ">seconds of training</text>" in checked(report(looks=fast))[0]


@pytest.mark.parametrize(
    ("value", "told"),
    [(1.00421, "1.0042"), (21.974, "21.97"), (357.37, "357.4"), (7773.1, "7,773"), (2e9, "2e+09")],
)
def test_ratios_as_people_read_them(value: float, told: str) -> None:
    assert plots.times(value) == told
    assert (plots.share(-0.1234), plots.share(-0.0001), plots.share(1)) == (
        "−12.3%",
        "0.0%",
        "100.0%",
    )
