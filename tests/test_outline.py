"""`sprue plan`: what compress would do, said beforehand; nothing of the model is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sprue import cli
from sprue.compress import compress
from sprue.errors import BudgetError, InputError
from sprue.outline import plan

Folder = Callable[..., Path]
QUICK: dict[str, Any] = {"windows": 8, "context": 32, "progress": False, "seed": 0}


@pytest.fixture(scope="module")
def source(speaking: Folder) -> Path:
    return speaking("llama", num_hidden_layers=2)


def test_compress_carries_out_what_was_planned(
    source: Path, corpus: Folder, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"size": "25%", "sparsity": 0.4, "calibrate": [corpus()], **QUICK}
    told = plan(source, out=tmp_path / "recipe.yaml", **asked)
    made = compress(source, tmp_path / "a", **asked)
    figures = told.as_dict()
    assert made.artifact["bytes"] == pytest.approx(figures["bytes"], rel=0.02)
    assert made.artifact["bytes"] <= 0.25 * made.artifact["original"]["bytes"]
    assert figures["sparsity"] >= 0.4 - 1e-9
    assert figures["flops"] < 1
    assert 0 < figures["kept"] < 1
    again = compress(
        source, tmp_path / "b", recipe=tmp_path / "recipe.yaml", calibrate=[corpus()], **QUICK
    )
    assert again.artifact["recipe"]["tensors"].keys() == made.artifact["recipe"]["tensors"].keys()


@pytest.mark.parametrize(
    "asked",
    [
        {"preset": "sparsegpt", "pattern": "2:4"},
        {"preset": "wanda", "sparsity": 0.5},
        {"preset": "gptq", "bits": 4.3},
        {"preset": "slim", "pattern": "2:4", "bits": 3.0},
        {"bits": 3.0},
    ],
)
def test_the_bytes_are_those_of_the_result(
    asked: dict[str, Any], source: Path, corpus: Folder, tmp_path: Path
) -> None:
    told = plan(source, calibrate=[corpus()], **asked, **QUICK).as_dict()
    made = compress(source, tmp_path / "out", calibrate=[corpus()], **asked, **QUICK)
    assert made.artifact["bytes"] == pytest.approx(told["bytes"], rel=0.03)


def test_more_to_keep_takes_more(source: Path, corpus: Folder) -> None:
    some, most = (
        plan(source, keep=keep, calibrate=[corpus()], **QUICK).as_dict() for keep in (0.9, 0.99)
    )
    assert some["bytes"] < most["bytes"]
    assert some["kept"] == pytest.approx(0.9, abs=0.02)
    assert set(some["sensitivity"]) == {n for n in some["recipe"]["tensors"] if "layers" in n}


def test_the_command_prints_both_ways(
    source: Path, corpus: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["plan", str(source), "--bits", "3", "--calibrate", str(corpus()), "--quiet"]
    assert cli.main([*common, "--windows", "8", "--context", "32"]) == 0
    told = capsys.readouterr().out
    assert "predicted, not measured" in told
    assert "self_attn.q_proj" in told
    assert cli.main([*common, "--windows", "8", "--context", "32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits"] == pytest.approx(3.0, abs=0.1)


def test_what_cannot_be_is_refused(source: Path, corpus: Folder, tmp_path: Path) -> None:
    taken = tmp_path / "taken.yaml"
    taken.write_text("")
    with pytest.raises(InputError, match="expected a new file name"):
        plan(source, out=taken, **QUICK)
    with pytest.raises(InputError, match="leave --bits, --size and --preset out"):
        plan(source, keep=0.9, bits=3.0, **QUICK)
    with pytest.raises(InputError, match="above 0 and below 1"):
        plan(source, keep=1.0, **QUICK)
    with pytest.raises(BudgetError, match="at least"):
        plan(source, size="1%", **QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["taken.yaml"]
