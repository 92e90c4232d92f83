"""The demo's folder, its table, and the README's figures; the demo itself runs in test_docs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sprue import demo_run
from sprue.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
VERIFIED: dict[str, Any] = {
    "bytes": {"original": 1000, "result": 250},
    "perplexity": {"original": 20.0, "result": 21.0},
    "tokens_per_second": {"original": 100.0, "result": 150.0},
    "peak_rss_bytes": {"original": 4000, "result": 3000},
    "bits_per_weight": {"linears": 4.0, "file": 4.5},
    "kl_nats": 0.0125,
    "top1_agreement": 0.975,
}
FIGURES = {
    "verify": VERIFIED,
    "sample": {"prompt": "Once", "original": " upon\na time", "result": " upon a hill"},
    "seconds": 61.2,
    "machine": "2 cores",
}


@pytest.fixture
def update_readme() -> ModuleType:
    """The script, as a module."""
    path = ROOT / "demo" / "update_readme.py"
    spec = importlib.util.spec_from_file_location("update_readme", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_folder_that_is_not_a_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    with pytest.raises(InputError, match="not an earlier demo"):
        demo_run.run(tmp_path, bits=4)
    assert (tmp_path / "model" / "mine").exists()


def test_no_finished_demo_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run 'sprue demo --out"):
        demo_run.read(tmp_path)


def test_the_table_holds_the_figures(tmp_path: Path) -> None:
    (tmp_path / demo_run.FIGURES).write_text(json.dumps(FIGURES))
    lines = demo_run.read(tmp_path).table().splitlines()
    assert lines[1].split()[-3:] == ["1,000", "250", "0.250"]
    assert lines[2].split()[-3:] == ["20.000", "21.000", "1.050"]
    assert "4.000 of the linears, 4.500 of the file" in lines[5]
    assert "0.0125 nats per token; same likeliest token: 97.5%" in lines[6]
    assert "original:   Once upon a time" in lines
    assert "compressed: Once upon a hill" in lines


def test_the_readme_takes_the_figures_between_its_marks(
    update_readme: ModuleType, tmp_path: Path
) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    text = update_readme.figures(demo_run.DemoReport(tmp_path, FIGURES))
    updated = update_readme.update(page, text)
    assert "in 61 seconds (2 cores)" in updated
    assert update_readme.update(updated, text) == updated
    with pytest.raises(SystemExit, match="figures"):
        update_readme.update("no marks", text)
