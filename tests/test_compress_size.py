"""`--size`: never more, and hardly less."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sprue import models
from sprue.compress import compress
from sprue.errors import BudgetError
from sprue.plan import job
from sprue.plan import survey as surveys

Folder = Callable[..., Path]
QUICK: dict[str, Any] = {"windows": 8, "context": 32, "progress": False}
WIDE: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96}


@pytest.fixture(autouse=True)
def _once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One survey of a model serves every size: it does not depend on the budget."""
    kept: dict[str, surveys.Survey] = {}

    def survey(stream: models.Stream, **options: Any) -> surveys.Survey:
        name = stream.source.name
        if name not in kept:
            kept[name] = surveys.survey(stream, **options)
        return kept[name]

    monkeypatch.setattr(job, "survey", survey)


@pytest.mark.parametrize(
    ("name", "tied", "dtype"),
    [("llama", True, torch.float32), ("gpt_neox", False, torch.bfloat16)],
)
def test_the_best_fills_every_size(
    name: str, tied: bool, dtype: torch.dtype, speaking: Folder, corpus: Folder, tmp_path: Path
) -> None:
    source = speaking(name, dtype, **WIDE, tie_word_embeddings=tied)
    original = models.open(source).nbytes
    whole = 32 if dtype == torch.float32 else 16
    for i, bits in enumerate((1.6, 2.3, 3.1, 4.7)):
        limit = int(original * bits / whole)
        report = compress(source, tmp_path / str(i), size=str(limit), calibrate=[corpus()], **QUICK)
        taken = report.artifact["bytes"]
        assert taken <= limit
        assert taken >= 0.98 * limit, bits


@pytest.mark.parametrize("preset", ["rtn", "gptq", "svd", "caldera"])
def test_presets_stay_within_a_size(
    preset: str, speaking: Folder, corpus: Folder, tmp_path: Path
) -> None:
    source = speaking("gpt2", num_hidden_layers=2)
    original = models.open(source).nbytes
    for percent in (18, 21.7, 26):
        options = {"preset": preset, "size": f"{percent}%", "calibrate": [corpus()], **QUICK}
        report = compress(source, tmp_path / str(percent), **options)
        limit = original * percent / 100
        assert report.artifact["bytes"] <= limit
        assert report.artifact["bytes"] >= 0.9 * limit


@pytest.mark.parametrize("size", ["1", "900", "2kB"])
@pytest.mark.parametrize("preset", [None, "rtn", "gptq", "svd", "caldera"])
def test_impossible_sizes_are_refused_at_once(
    size: str, preset: str | None, speaking: Folder, corpus: Folder, tmp_path: Path
) -> None:
    source = speaking("gpt2", num_hidden_layers=2)
    with pytest.raises(BudgetError, match="give more"):
        compress(source, tmp_path / "out", size=size, preset=preset, calibrate=[corpus()], **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_what_is_enough_for_everything_takes_the_most_there_is(
    speaking: Folder, corpus: Folder, tmp_path: Path
) -> None:
    source = speaking("gpt2", num_hidden_layers=2)
    report = compress(source, tmp_path / "out", size="100%", calibrate=[corpus()], **QUICK)
    bits = {tensor["bits_per_weight"] for tensor in report.artifact["tensors"].values()}
    assert min(bits) > 8
    assert report.artifact["bytes"] < models.open(source).nbytes
