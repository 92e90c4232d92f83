"""The page of a model with thresholds, and what a verification shows of them; figures made up."""

from __future__ import annotations

import json
import re
from typing import Any
from xml.etree import ElementTree

from sprue.proof import layers, plots, zeros_page

KINDS = ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")


def _artifact(blocks: int = 3, **changes: Any) -> dict[str, Any]:
    told = {"bits": 32000, "bits_per_weight": 32.0, "grid": "columns", "threshold": 0.125}
    tensors = {
        f"model.layers.{i}.{kind}": {
            **told,
            "weights": 1000 * (1 + k),
            "error": 0.01 * (1 + k),
            "zeros": 0.1 * (1 + i + k),
            "planned": 0.5,
        }
        for i in range(blocks)
        for k, kind in enumerate(KINDS)
    }
    curve = [
        {"zeros": k / 20, "shared_out": (k / 20) ** 4, "even": (k / 20) ** 3} for k in range(1, 20)
    ]
    return {
        "sprue": "0",
        "original": {"name": "<big> & small", "bytes": 9, "sha256": "ab"},
        "tensors": tensors,
        "activations": {
            "target": 0.4,
            "met": 0.4012,
            "flops": {"original": 1000, "result": 650},
            "predicted_kl_nats": 0.0256,
            "curve": curve,
        },
        "data": {"files": ["a.txt"], "windows": 4, "context": 16, "fingerprint": "cd"},
        "seed": 0,
        "fallbacks": [],
        **changes,
    }


def _drawings(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_the_page_is_one_file_and_shows_what_was_recorded() -> None:
    page = zeros_page.render(_artifact())
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "<script" not in page
    assert "&lt;big&gt; &amp; small" in page
    assert len(_drawings(page)) == 4 + 2  # and two marks of a legend
    for words in ("40.12%", "40%", "65.0%", "0.0256", "a.txt", "4 windows of 16 tokens"):
        assert words in page
    assert page.count("<tr>") == 1 + 9
    assert "Fallbacks" in zeros_page.render(_artifact(fallbacks=["no compiler"]))


def test_the_curve_goes_through_its_points() -> None:
    told = _artifact()["activations"]
    drawn = plots.zeros_curve(told["curve"], told["target"])
    assert "40%: 0.0256, even 0.0640" in drawn
    lines = [e for e in ElementTree.fromstring(drawn).iter() if "result" in e.get("class", "")]
    heights = [float(e.get("y2", 0)) for e in lines]
    assert heights == sorted(heights, reverse=True)  # more zeros, more damage: up the page
    assert len(lines) == 11  # up to 60%: two tenths beyond what was asked for


def test_layers_are_weighed_by_their_weights() -> None:
    found = layers.matrices(_artifact()["tensors"])
    first = layers.by_layer(found)[0]
    expected = (1000 * 0.1 + 2000 * 0.2 + 3000 * 0.3) / 6000
    assert abs(layers.mean_zeros(first) - expected) < 1e-12
    assert f"most in layer 2 ({100 * (expected + 0.2):.1f}%)" in plots.zeros_by_layer(found)


def test_one_block_and_one_point_are_enough() -> None:
    artifact = _artifact(blocks=1)
    artifact["activations"]["curve"] = artifact["activations"]["curve"][:1]
    artifact["activations"]["target"] = 0.01
    assert len(_drawings(zeros_page.render(json.loads(json.dumps(artifact))))) == 6
