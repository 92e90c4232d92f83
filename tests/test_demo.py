"""The embedded model and texts: complete, usable and within their sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from sprue import demo

FILES = [*demo.calibration_files(), *demo.test_files()]


def test_the_model_loads_with_stock_transformers() -> None:
    model = AutoModelForCausalLM.from_pretrained(demo.model_path())
    assert model.num_parameters() == 5_770_496
    assert model.config.max_position_embeddings == 256


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_each_text_is_small_and_holds_enough_windows(file: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    limit = 250_000 if file.parent.name == "calibration" else 100_000
    assert file.stat().st_size <= limit
    tokens = len(tokenizer(file.read_text(encoding="utf-8"))["input_ids"])
    assert tokens >= 100 * 256


def test_nothing_is_measured_on_what_was_calibrated_with() -> None:
    for calibration, test in zip(demo.calibration_files(), demo.test_files(), strict=True):
        assert calibration.stem == test.stem
        seen = set(paragraphs(calibration))
        new = [p for p in paragraphs(test) if p not in seen]
        assert len(new) > 0.95 * len(paragraphs(test))


def paragraphs(file: Path) -> list[str]:
    """The longer paragraphs of a text."""
    return [p for p in file.read_text(encoding="utf-8").split("\n\n") if len(p) > 80]


def test_the_source_of_every_text_is_stated() -> None:
    stated = (demo.test_files()[0].parents[1] / "README.md").read_text(encoding="utf-8")
    for name in demo.CAPABILITIES:
        assert f"`{name}.txt`" in stated
    for license_name in ("CC0 1.0", "CC BY 4.0", "CC BY-SA 4.0", "PSF", "CDLA-Sharing 1.0"):
        assert license_name in stated
