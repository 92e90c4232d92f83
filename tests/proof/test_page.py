"""The report's page, table and JSON, from figures that were made up."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from sprue.proof import energy, layers, quality
from sprue.proof.form import asked, percent, signed, size
from sprue.proof.intervals import Estimate
from sprue.proof.machine import Machine
from sprue.proof.memory import Memory
from sprue.proof.quality import Sample
from sprue.proof.report import Costs, Met, Report
from sprue.proof.speed import Pace, Speed
from sprue.proof.svg import ticks

SVG = "{http://www.w3.org/2000/svg}"
KINDS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def sample(name: str, worse: float = 0.01, windows: int = 30) -> Sample:
    rng = np.random.default_rng(len(name))
    original = rng.normal(3, 0.4, windows)
    result = original + rng.normal(worse, 0.01, windows)
    kl, agreement = rng.lognormal(-4, 0.3, windows), rng.uniform(0.9, 1, windows)
    return Sample(name, original, result, kl, agreement)


def costs(source: str = "modelled") -> Costs:
    pace = Pace(900.0, 80.0, 0.001, 0.012, None)
    ratio = Estimate(1.2, 1.1, 1.3, 0.98)
    used = energy.model(0.012, 1e7) if source == "modelled" else energy.read(source, 0.5)
    memory = Memory(430_000_000, 380_000_000, None, "bfloat16")
    return Costs(Speed(128, 32, 7, pace, pace, ratio, ratio, ratio), (memory, memory), (used, used))


def artifact(blocks: int = 3, fallbacks: tuple[Any, ...] = ()) -> dict[str, Any]:
    names = [f"model.layers.{i}.{kind}" for i in range(blocks) for kind in KINDS]
    told = {"bits": 4250, "weights": 1000, "bits_per_weight": 4.25, "error": 0.01, "grid": "int"}
    tensors = {name: {**told, "error": 0.001 * (1 + i % 7)} for i, name in enumerate(names)}
    tensors["model.embed_tokens"] = {**told, "bits": 8000}
    return {
        "original": {"name": "m", "bytes": 9},
        "seed": 0,
        "recipe": {"preset": "caldera"},
        "tensors": tensors,
        "fallbacks": list(fallbacks),
    }


def report(keep: float | None = 0.95, **changes: Any) -> Report:
    samples = changes.pop("samples", (sample("code/test.txt"), sample("law/test.txt", 0.02)))
    overall = quality.summarize(samples)
    made = Report(
        original="big",
        result="small",
        device="cpu",
        context=256,
        seed=0,
        paths=tuple(s.name for s in samples),
        fingerprint="ab" * 32,
        samples=samples,
        files=tuple(quality.summarize([s]) for s in samples),
        quality=overall,
        verdict=quality.judge(overall, keep),
        nbytes=(11_540_992, 3_380_224),
        bits_per_weight={"linears": 4.25, "file": 4.7},
        costs=costs(),
        artifact=artifact(),
        machine=Machine("A CPU", 2, 1, 8 << 30, "Linux x86_64", None, {"sprue": "0"}, "2026"),
    )
    return replace(made, **changes)


class Outline(HTMLParser):
    """Tags that were opened and not closed, and everything that an attribute points to."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in {"src", "href", "xlink:href", "action"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == []
    return parsed


def drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def words_of(svg: ElementTree.Element) -> str:
    return " ".join(text.text or "" for text in svg.iter(f"{SVG}text"))


def test_the_page_is_one_file_that_asks_for_nothing() -> None:
    page = report().html()
    parsed = outline(page)
    assert parsed.links == []
    assert not {"script", "iframe", "object", "link", "img"} & set(parsed.tags)
    assert "url(" not in page
    assert "@import" not in page
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_every_plot_is_well_formed_and_has_a_text_alternative() -> None:
    found = [d for d in drawings(report().html()) if d.get("aria-hidden") != "true"]
    assert len(found) == 7  # verdict, files, windows, and four of the layers
    for drawing in found:
        assert drawing.get("role") == "img"
        assert len(drawing.get("aria-label") or "") > 40
        width, height = (float(v) for v in (drawing.get("viewBox") or "").split()[2:])
        for mark in drawing.iter():
            for side, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                assert -1 <= float(mark.get(side) or 0) <= most + 1


def test_the_page_shows_verdict_figures_method_and_fallbacks() -> None:
    page = report(artifact=artifact(fallbacks=("layer 3: more damping", {"layer": 4}))).html()
    for words in (
        "Margin met",
        "What the verdict means",
        "Before and after",
        "nats per token",
        "peak resident memory",
        "modelled, not measured",
        "3 to 12 watts",
        "preset: caldera",
        "layer 3: more damping",
        "layer 4",
        "ab" * 32,
        "A CPU",
    ):
        assert words in page


@pytest.mark.parametrize(
    ("keep", "pill", "statement"),
    [
        (None, "No margin asked for", "At least 98."),
        (0.95, "Margin met", "Kept: at least 98."),
        (0.983, "Margin not met", "Not proven: 98.2"),
        (0.999, "Margin not met", "Not kept: 98.2"),
    ],
)
def test_the_verdict_is_said_in_plain_words(keep: float | None, pill: str, statement: str) -> None:
    made = report(keep)
    assert made.statement.startswith(statement)
    assert made.passed == (keep is None or keep == 0.95)
    assert pill in made.html()
    assert made.table().startswith(made.statement)
    assert made.as_dict()["verdict"]["statement"] == made.statement
    assert made.as_dict()["verdict"]["passed"] == (None if keep is None else made.passed)


def test_names_from_outside_stay_text() -> None:
    hostile = "<script>alert(1)</script>&\"'"
    recorded = artifact(fallbacks=(hostile,))
    recorded["tensors"][f"model.layers.0.{hostile}"] = recorded["tensors"]["model.embed_tokens"]
    made = report(
        samples=(sample(hostile), sample("b")), original=hostile, result=hostile, artifact=recorded
    )
    page = made.html()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    outline(page)
    assert len(drawings(page)) > 7


def test_a_result_without_records_and_without_costs_still_has_a_page() -> None:
    made = report(
        samples=(sample("only.txt"),),
        artifact=None,
        costs=None,
        bits_per_weight={"linears": None, "file": 4.7},
    )
    page = made.html()
    outline(page)
    assert "nothing is known about its layers" in page
    assert "were not measured" in page
    assert "How the result was made" not in page
    assert "mean of the files" not in made.table()


@pytest.mark.parametrize("source", ["rapl", "nvml"])
def test_a_counter_is_named_where_one_was_read(source: str) -> None:
    page = report(costs=costs(source)).html()
    assert f"read from {source.upper()}" in page
    assert "modelled" not in page


def test_identical_models_and_many_layers_can_be_drawn() -> None:
    same = Sample("a", np.full(5, 3.0), np.full(5, 3.0), np.zeros(5), np.ones(5))
    made = report(1.0, samples=(same, replace(same, name="b")), artifact=artifact(blocks=90))
    page = made.html()
    assert made.passed
    assert "nan" not in " ".join(words_of(d) for d in drawings(page)).lower()
    assert re.search(r'(x|y|cx|cy|width|height)="(nan|inf)', page) is None


def test_the_json_has_the_figures_that_were_promised() -> None:
    found = json.loads(json.dumps(report().as_dict(), allow_nan=False))
    pairs = ("perplexity", "bytes", "tokens_per_second", "peak_rss_bytes")
    figures = [found[pair][which] for pair in pairs for which in ("original", "result")]
    figures += [found["bits_per_weight"][what] for what in ("linears", "file")]
    figures += [found[name] for name in ("kl_nats", "top1_agreement", "kept", "excess")]
    assert all(isinstance(figure, int | float) for figure in figures)
    assert found["verdict"]["keep"] == 0.95
    assert found["energy"]["constants"]["original"]["watts_per_core"] == [3, 12]
    assert len(report().as_dict(full=True)["windows"]["code/test.txt"]["kl_nats"]) == 30


def test_the_table_lines_up() -> None:
    lines = report().table().splitlines()[2:]
    ends = {re.search(r"original|11\.54 MB", line).end() for line in lines[:2]}  # type: ignore[union-attr]
    assert len(ends) == 1
    assert any(line.startswith("perplexity, law/test.txt") for line in lines)


def test_matrices_are_told_apart_by_the_end_of_their_names() -> None:
    told = {"bits": 8, "weights": 2, "error": 0.5, "grid": "int"}
    names = ["t.h.0.attn.c_proj", "t.h.0.mlp.c_proj", "t.h.0.mlp.c_fc", "t.wte", "t.h.1.mlp.c_fc"]
    found = layers.matrices(dict.fromkeys(names, told))
    assert [m.kind for m in found] == ["attn.c_proj", "mlp.c_proj", "c_fc", "wte", "c_fc"]
    assert [m.layer for m in found] == [0, 0, 0, None, 1]
    table = layers.by_layer(found)
    assert [len(table[i]) for i in (0, 1)] == [3, 1]
    assert layers.mean_bits(found) == 4
    assert layers.mean_error(found) == 0.5


def test_numbers_are_never_rounded_to_more_than_they_are() -> None:
    assert percent(0.99996) == "99.996%"
    assert percent(0.9999999) == "99.999%"
    assert percent(0.98999) == "98.99%"
    assert percent(0.57) == "57.00%"
    assert percent(1.0) == "100.00%"
    assert asked(0.999) == "99.9%"
    assert signed(-0.0123) == "−1.23%"
    assert [size(b) for b in (12, 1500, 11_540_992, 3e9)] == [
        "12 B",
        "1.50 kB",
        "11.54 MB",
        "3.00 GB",
    ]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 8.1), (0.968, 1.0), (5, 5), (0, 1e-9)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 11
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)


def test_zeros_are_shown_where_they_were_counted() -> None:
    plain = report()
    assert plain.as_dict()["zeros"] is None
    assert "meet a zero" not in plain.table() + plain.html()
    names = [name for name in artifact()["tensors"] if "layers" in name]
    found = report(zeros=Met(0.4321, dict.fromkeys(names, 0.4321)))
    assert found.as_dict()["zeros"]["share"] == 0.4321
    assert "43.21%" in found.table()
    assert len(drawings(found.html())) == len(drawings(plain.html())) + 2
    assert "Zeros by kind of linear" in found.html()
