"""Figures and files that must stay as they were committed."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sprue.weights import packed

GOLDEN = Path(__file__).resolve().parent / "golden"
TABLE = json.loads((GOLDEN / "table.json").read_text())
STORED = json.loads((GOLDEN / "packed.json").read_text())
# what is decoded without sums: the same bytes on every processor
EXACT = ["int", "trellis", "trellis_segments", "raw", "masked", "trellis_masked", "columns"]


@pytest.fixture(scope="module")
def make() -> dict[str, Any]:
    """The script that wrote the golden files."""
    return runpy.run_path(str(GOLDEN / "make.py"))


@pytest.fixture(scope="module")
def measured(make: dict[str, Any]) -> dict[str, dict[str, float]]:
    return make["table"]()


@pytest.mark.parametrize("name", TABLE)
def test_bits_and_error_are_those_in_the_table(
    name: str, measured: dict[str, dict[str, float]]
) -> None:
    """Where they change for the better: python tests/weights/golden/make.py, and say why."""
    assert measured.keys() == TABLE.keys()
    # what is coded beside zeros was computed, in an order of sums that the processor chooses: a
    # last digit sends the path another way, as likely a better one
    rel = 0.03 if name.startswith("slim") else 1e-3
    assert measured[name] == pytest.approx(TABLE[name], rel=rel)


@pytest.mark.parametrize("name", STORED)
def test_an_old_file_still_decodes_to_the_same_values(name: str, make: dict[str, Any]) -> None:
    told, tensors = STORED[name], _tensors(name)
    values = packed.dense(told["layout"], tensors)
    if name in EXACT:
        assert make["digest"](values) == told["sha256"]
    # factors and rotations are sums in float32, in an order that the processor chooses
    torch.testing.assert_close(values[1, :4], torch.tensor(told["row"]), rtol=1e-5, atol=1e-5)
    ids = torch.tensor([1, 0])
    torch.testing.assert_close(
        packed.rows(told["layout"], tensors, ids), values[ids], rtol=1e-5, atol=1e-5
    )


def test_every_kind_is_in_the_file() -> None:
    kinds = {
        (s["layout"]["grid"], "low_rank" in s["layout"], "rotate" in s["layout"])
        for s in STORED.values()
    }
    assert {grid for grid, _, _ in kinds} == set(packed.GRIDS)
    assert STORED["trellis_segments"]["layout"]["segments"] == 2
    assert (GOLDEN / "packed.safetensors").stat().st_size < 20_000


def _tensors(name: str) -> dict[str, torch.Tensor]:
    stored = load_file(GOLDEN / "packed.safetensors")
    return {n.removeprefix(f"{name}."): t for n, t in stored.items() if n.startswith(f"{name}.")}
