"""Curves, picks and the table of a sweep, from figures that were made up."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from sprue.proof import sweep_plots
from sprue.proof.machine import Machine
from sprue.proof.point import Curve, Point
from sprue.proof.quality import Sample
from sprue.proof.sweep_report import Pick, SweepReport

WINDOWS = 40
LAYERS = {f"model.layers.{i}.mlp.{kind}": 0.1 * i for i in range(3) for kind in ("up", "down")}


def sample(name: str, worse: float, spread: float = 0.002) -> Sample:
    rng = np.random.default_rng(len(name))
    original = rng.normal(3, 0.4, WINDOWS)
    noise = rng.normal(0, spread, WINDOWS)
    result = original + worse + noise - noise.mean()
    return Sample(name, original, result, np.full(WINDOWS, worse / 2), np.full(WINDOWS, 0.9))


def point(task: str, family: str, ratio: float, kept: float, pattern: str = "") -> Point:
    losses = {name: -np.log(kept) * (1 if name == task else 2) for name in ("law", "other")}
    samples = {name: sample(name, loss) for name, loss in losses.items()}
    recipe = {"version": 1, "tensors": {"m": {"grid": "raw"}}}
    form = pattern or family
    return Point(task, family, form, ratio, ratio, LAYERS, 0.01, recipe, samples)


def curve(task: str, family: str, rows: Sequence[tuple[float, float]]) -> Curve:
    return Curve(task, family, [point(task, family, *row) for row in rows])


ROWS = [(0.2, 0.9999), (0.4, 0.997), (0.6, 0.97), (0.8, 0.7)]


def report(pick: Pick | None, *curves: Curve) -> SweepReport:
    machine = Machine("cpu", 2, 1, 10**9, None, "Linux", {"sprue": "0.1"}, "2026-01-01")
    told = {"files": ["a.txt"], "fingerprint": "f" * 64}
    tasks = {
        t: {**told, "calibration_windows": 8, "evaluation_windows": 8} for t in ("law", "other")
    }
    settings = {"model": "0" * 64, "windows": 8, "context": None, "seed": 0}
    texts = {"law": ["a b.txt", "c.txt"], "other": ["o.txt", "p.txt"]}
    return SweepReport("m", "out", settings, tasks, curves, 0.99, 0, pick, texts, machine)


def test_the_margin_lies_between_two_points() -> None:
    found = curve("law", "unstructured", ROWS)
    below, above = found.keeps(0.99), found.fails(0.99)
    assert below is not None
    assert above is not None
    assert (below.ratio, above.ratio) == (0.4, 0.6)
    more = found.next_ratio(0.99)
    assert more is not None
    assert 0.4 < more < 0.6
    assert found.keeps(0.9999) is None
    first = found.next_ratio(0.9999)
    assert first is not None
    assert 0 < first < 0.2
    every = found.keeps(0.5)
    assert every is not None
    assert every.ratio == 0.8
    assert found.fails(0.5) is None
    assert found.next_ratio(0.5) is None
    empty = Curve("law", "unstructured", [])
    assert empty.knee(0) is None
    assert empty.keeps(0.9) is None


def test_a_point_that_keeps_more_after_one_that_fails_does_not_count() -> None:
    found = curve("law", "unstructured", [(0.2, 0.999), (0.4, 0.98), (0.6, 0.999)])
    below = found.keeps(0.99)
    assert below is not None
    assert below.ratio == 0.2


def test_the_pick_is_the_largest_over_all_patterns() -> None:
    blocks = curve("law", "4x1", [(0.3, 0.999), (0.5, 0.995)])
    curves = [curve("law", "unstructured", ROWS), blocks, curve("other", "unstructured", ROWS)]
    pick = Pick.of("law", curves, 0.99)
    assert pick.passed
    assert (pick.point.pattern, pick.point.ratio) == ("4x1", 0.5)
    none = Pick.of("law", curves, 0.99999)
    assert not none.passed
    assert none.point.ratio == 0.2  # of which most is kept for certain
    assert report(pick, *curves).passed
    assert not report(none, *curves).passed
    assert "no ratio that was measured keeps 99%" in report(none, *curves).statement


def test_the_command_can_be_typed() -> None:
    pick = Pick.of("law", [curve("law", "unstructured", ROWS)], 0.99)
    found = report(pick, curve("law", "unstructured", ROWS))
    assert found.command is not None
    assert "--recipe out/recipe.yaml --calibrate 'a b.txt' --windows 8 --out" in found.command
    assert report(None).command is None


def test_the_table_says_more_and_none() -> None:
    rows = [(0.2, 0.9999), (0.4, 0.9998)]
    bad = [(0.2, 0.9), (0.4, 0.8)]
    curves = [curve("law", "unstructured", rows), curve("other", "unstructured", bad)]
    text = report(None, *curves).table()
    assert re.search(r"law +unstructured .*40% or more +99\.980%", text)
    assert re.search(r"other +unstructured .*none\n", text)
    json.dumps(report(None, *curves).as_dict())


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], [(0.5, 1.0)], [(0.5, 1.002), (0.9, 1e-9)]])
def test_every_plot_can_be_drawn(rows: list[tuple[float, float]]) -> None:
    curves = [curve("law", "unstructured", rows), curve("other", "unstructured", rows)]
    page = report(Pick.of("law", curves, 0.99), *curves).html()
    drawings: list[Any] = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) >= 5
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing
        assert "inf" not in drawing


def test_a_point_is_read_as_it_was_told() -> None:
    before = point("law", "N:4", 0.5, 0.98, "2:4")
    after = Point.from_dict(json.loads(json.dumps(before.as_dict())))
    assert after.as_dict() == before.as_dict()
    assert after.quality == before.quality


def test_what_lies_outside_of_a_plot_is_cut_where_it_leaves() -> None:
    outline = [(0.0, 100.0), (10.0, 100.0), (10.0, 0.0), (0.0, 80.0)]
    cut = sweep_plots._below(outline, -50.0, -1)
    assert cut == [(0.0, 100.0), (10.0, 100.0), (10.0, 50.0), (3.75, 50.0), (0.0, 80.0)]
    assert sweep_plots._below([(0.0, 100.0), (10.0, 0.0)], -50.0, -1)[:2] == [(0, 100), (5, 50)]
    assert sweep_plots._below([(0.0, 10.0), (10.0, 0.0)], -50.0, -1) == []
    assert sweep_plots._below(outline, 200.0) == outline
