"""What an audit found, as a page, as JSON and as a table."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from sprue.proof import audit_plots, audit_table
from sprue.proof.audit_report import AuditReport
from sprue.proof.machine import stamp
from sprue.structure import findings
from sprue.structure.findings import BINS, Findings, LayerFindings, Option


def layer(name: str, **changes: object) -> LayerFindings:
    options = (
        Option(name, findings.INT8, 600.0, 0.0, 1e-5, 1e-6),
        Option(name, findings.INT4, 700.0, 0.0, 2e-3, 1e-4),
        Option(name, findings.HALF, 400.0, 5e6, 0.3, 0.1),
        Option(name, findings.DEAD, -25.0, 2e5, 1e-9, 1e-10),
        Option(name, findings.SPARE, 160.0, 2e6, 4e-3, 1e-3),
    )
    found = LayerFindings(
        name=name,
        kind="Linear",
        out=10,
        width=20,
        parameters=200,
        macs=1e7,
        positions=64,
        inputs=20,
        spare_inputs=4,
        rank=6,
        dead_connections=4,
        dead_inputs=1,
        dead_outputs=0,
        repeated_outputs=2,
        repeated_inputs=None,
        contributions=tuple(range(BINS)),
        options=options,
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def report(*layers: LayerFindings, examples: tuple[int, int] = (32, 31)) -> AuditReport:
    found = Findings(
        layers=layers,
        idle=(("pooler<b>", 110),),
        parameters=1000,
        error=0.01,
        share=1e-3,
        r2=0.99,
        examples=examples,
        draws=4,
        seed=7,
    )
    return AuditReport("path/to/net", "image-classification", ("a.zip",), "f" * 64, found, stamp())


@pytest.fixture
def whole() -> AuditReport:
    low = layer("low", rank=2, spare_inputs=0)
    bare = layer("table", kind="Embedding", spare_inputs=None, rank=None, dead_connections=None,
                 dead_inputs=None, dead_outputs=10, repeated_outputs=None)  # fmt: skip
    return report(layer("first"), low, bare)


def test_what_is_spare_is_the_largest_saving(whole: AuditReport) -> None:
    first, low, bare = whole.findings.layers
    assert (first.spare_by_inputs, first.spare_by_rank, first.spare) == (40, 20, 40)
    assert (low.spare, low.spare_kind) == (200 - 2 * 30, findings.DIRECTIONS)
    assert (bare.spare, bare.spare_kind) == (200, findings.UNREAD)
    assert layer("x", rank=9, spare_inputs=0).spare_kind is None
    assert whole.findings.spare == 40 + 140 + 200 + 110


def test_the_statement_says_what_matters(whole: AuditReport) -> None:
    assert whole.statement == (
        "49.0% of the parameters are spare: without them, and with the rest refitted, each layer "
        "still gives all but 1.0% of its outputs. All of it at once is predicted to cost 0.012 "
        "nats for an example. 110 of them are in layers that never run."
    )


def test_json_holds_every_figure(whole: AuditReport) -> None:
    told = json.loads(json.dumps(whole.as_dict()))
    assert told["parameters"] == {"all": 1000, "in_layers": 600, "spare": 490}
    assert told["data"]["held_out"] == 31
    assert told["layers"][1]["spare_kind"] == "rank"
    assert told["layers"][0]["repeated_inputs"] is None
    assert told["techniques"]["int8"]["nbytes"] == 1800
    assert told["techniques"]["int8"]["nats"] == pytest.approx(3e-5)
    assert told["best"][0]["bytes_per_nat"] == pytest.approx(6e7)
    assert [o["bytes_per_nat"] for o in told["best"]] == sorted(
        (o["bytes_per_nat"] for o in told["best"]), reverse=True
    )
    assert all(o["nbytes"] > 0 for o in told["best"])
    assert told["idle"] == [{"layer": "pooler<b>", "parameters": 110}]
    assert told["seed"] == 7


def test_the_table_has_layers_techniques_and_the_best(whole: AuditReport) -> None:
    lines = whole.table().splitlines()
    assert next(x for x in lines if x.startswith("first ")).split()[:8] == [
        *("first", "Linear", "10", "x", "20", "20.0%", "4", "of")
    ]
    assert "rank 2" in next(x for x in lines if x.startswith("low "))
    assert "10 of 10 outputs" in next(x for x in lines if x.startswith("table "))
    half = next(x for x in lines if x.startswith("half of the inputs"))
    assert re.split("  +", half)[1:6] == ["1.20 kB", "30.0%", "15 M", "50.0%", "9.00e-01"]
    assert re.split("  +", next(x for x in lines if x.startswith("dead ")))[1] == "none"
    assert lines[-1].startswith("32 examples of a.zip fitted to, 31 held out")
    assert audit_table.share_of(0.00012) == "0.012%"


class Tags(HTMLParser):
    """Counts tags, and remembers whatever is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.loaded += [v or "" for k, v in attrs if k in ("src", "href")]


def test_the_page_holds_everything_and_loads_nothing(whole: AuditReport) -> None:
    html, tags = whole.html(), Tags()
    tags.feed(html)
    assert tags.loaded == []
    assert "url(" not in html
    assert tags.count["figure"] == 5
    assert tags.count["table"] == 3
    assert "pooler&lt;b&gt;" in html
    assert "pooler<b>" not in html
    for words in ("49.0% of the parameters are spare", "path/to/net", "What pays best", "± 1e-06"):
        assert words in html


def test_bars_are_as_high_as_what_is_spare(whole: AuditReport) -> None:
    drawing = audit_plots.spare(whole.findings.layers)
    bars = re.findall(r'<rect class="(m\d)"[^>]* height="([\d.]+)"', drawing)
    assert [kind for kind, _ in bars] == ["m0", "m1", "m2"]
    heights = [float(h) for _, h in bars]
    assert heights[1] / heights[0] == pytest.approx(140 / 40, rel=1e-3)
    assert heights[2] / heights[0] == pytest.approx(200 / 40, rel=1e-3)


def test_what_saves_nothing_is_no_mark(whole: AuditReport) -> None:
    drawing = audit_plots.worth(whole.findings)
    assert drawing.count('class="hover"') == 9  # three techniques in three layers
    assert findings.DEAD not in drawing
    assert findings.SPARE not in drawing


def test_the_way_down_costs_more_and_more(whole: AuditReport) -> None:
    points = audit_plots._way(whole.findings)
    assert points[0] == (1.0, 0.0)
    assert points[-1][0] == pytest.approx(1 - 3 * 700 / 4000)
    assert all(b[0] < a[0] and b[1] > a[1] for a, b in pairwise(points))
    assert (pytest.approx(1 - 1800 / 4000), pytest.approx(3e-5)) in points


def test_the_histogram_counts_connections(whole: AuditReport) -> None:
    drawing = audit_plots.contributions(whole.findings)
    assert drawing.count('class="bar"') == BINS
    assert f": {3 * (BINS - 1):,} connections" in drawing


def test_weights_alone_predict_nothing(whole: AuditReport) -> None:
    bare = layer("first", options=(), contributions=(0,) * BINS, positions=0)
    alone = report(bare, examples=(0, 0))
    assert "so say the weights alone" in alone.statement
    assert "nats" not in alone.table()
    html, tags = alone.html(), Tags()
    tags.feed(html)
    assert (tags.count["figure"], tags.count["table"]) == (2, 1)
    assert "What pays" not in html
    assert json.loads(json.dumps(alone.as_dict()))["best"] == []


def test_a_network_without_anything_to_say_has_a_page_too() -> None:
    dull = layer("only", options=(), spare_inputs=0, rank=10, dead_connections=0, dead_inputs=0,
                 contributions=(0,) * BINS)  # fmt: skip
    html = report(dull).html()
    assert "11.0% of the parameters are spare" in html
    assert "NaN" not in html
    assert "nan" not in re.sub(r"<style>.*?</style>", "", html, flags=re.S)
