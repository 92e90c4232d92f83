"""A run that was stopped while it measured goes on from there, and ends with the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sprue.compress import compress
from sprue.plan import keeping, surveyed, waiting
from sprue.plan.demands import Demands
from sprue.smallest import compress_to_keep
from sprue.weights.outlook import Outlook, outlook, with_zeros

Folder = Callable[..., Path]
QUICK: dict[str, Any] = {"windows": 8, "context": 32, "progress": False}
ZEROS: dict[str, Any] = {"bits": 3.0, "pattern": "2:4"}
BLOCKS = 3
BACK = "sprue.models.fisher:_back_through"
LOOK = "sprue.plan.survey:_block"
CONTEXT = "sprue.plan.context:Context._block"


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is saved whenever it can be."""
    monkeypatch.setattr(keeping, "OVERHEAD", float("inf"))


@pytest.fixture(scope="module")
def source(speaking: Folder) -> Path:
    return speaking("llama", num_hidden_layers=BLOCKS)


@pytest.fixture(scope="module")
def whole(source: Path, corpus: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that nothing stops makes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    compress(source, out, calibrate=[corpus()], **QUICK, **ZEROS)
    return out


class Calls:
    """Counts the calls of a function, and interrupts one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
        self.count, self.stop = 0, 0
        module, _, path = where.partition(":")
        *outer, name = path.split(".")
        owner: Any = import_module(module)
        for part in outer:
            owner = getattr(owner, part)
        real = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self.stop:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("where", [BACK, LOOK, CONTEXT])
@pytest.mark.parametrize("at", range(1, BLOCKS + 1))
def test_no_block_is_measured_twice(
    where: str,
    at: int,
    source: Path,
    whole: Path,
    corpus: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, out = Calls(monkeypatch, where), tmp_path / "out"
    calls.stop = at
    first = at == 1 and where == BACK  # nothing was measured before it
    words = None if first else "goes on from here"
    with pytest.raises(KeyboardInterrupt, match=words):
        compress(source, out, calibrate=[corpus()], **QUICK, **ZEROS)
    calls.count, calls.stop = 0, 0
    compress(source, out, calibrate=[corpus()], resume=True, **QUICK, **ZEROS)
    assert calls.count == BLOCKS - at + 1
    assert content(out) == content(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_stopped_again_and_again(
    source: Path,
    whole: Path,
    corpus: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each run gets two blocks further in one of the passes, with its activations in files."""
    monkeypatch.setattr(waiting, "RESIDENT", 3 * 32 * 32 * 4)
    monkeypatch.setattr("sprue.plan.job.RESIDENT", 1000)
    calls, out = [Calls(monkeypatch, where) for where in (BACK, LOOK, CONTEXT)], tmp_path / "out"
    stopped = 0
    for _ in range(9):
        for one in calls:
            one.count, one.stop = 0, 2
        try:
            compress(source, out, calibrate=[corpus()], **QUICK, **ZEROS)
        except KeyboardInterrupt:
            stopped += 1
        else:
            break
    assert stopped > 3
    assert content(out) == content(whole)


def test_what_was_measured_goes_once_there_is_a_plan(
    source: Path, corpus: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch, "sprue.plan.walk:Walk._block")
    calls.stop = 1
    with pytest.raises(KeyboardInterrupt):
        compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK, **ZEROS)
    left = {path.name for path in (tmp_path / ".out.partial/progress").iterdir()}
    assert left == {"state.json", "survey.safetensors"}


def test_a_search_does_not_measure_twice_either(
    source: Path, corpus: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"calibrate": [corpus()], "data": [corpus(1)], **QUICK, "windows": 16}
    compress_to_keep(source, tmp_path / "whole", 0.9, **how)
    back, packing = Calls(monkeypatch, BACK), Calls(monkeypatch, "sprue.plan.walk:Walk._block")
    back.stop = 3
    with pytest.raises(KeyboardInterrupt):
        compress_to_keep(source, tmp_path / "out", 0.9, **how)
    back.count, back.stop, packing.stop = 0, 0, 1
    with pytest.raises(KeyboardInterrupt):
        compress_to_keep(source, tmp_path / "out", 0.9, resume=True, **how)
    assert back.count == BLOCKS - 2
    back.count, packing.stop = 0, 0
    compress_to_keep(source, tmp_path / "out", 0.9, resume=True, **how)
    assert back.count == 0
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_outlooks_come_back_as_they_were() -> None:
    generator = torch.Generator().manual_seed(0)
    W, moment = torch.randn(16, 32, generator=generator), torch.eye(32)
    importance = torch.rand(16, dtype=torch.float64, generator=generator) + 0.1
    menu = Demands(None, "2:4", None).menu((16, 32))
    looks: surveyed.Looks = {
        "a.b": (outlook(W, moment, importance, 0.01), with_zeros(W, moment, importance, menu, 0)),
        "a.c": (outlook(2 * W, moment, importance, 0.01), []),
    }
    found = surveyed._unpacked(surveyed._packed(looks))
    assert list(found) == list(looks)
    for name, (plain, others) in looks.items():
        assert len(found[name][1]) == len(others)
        for old, new in zip([plain, *others], [found[name][0], *found[name][1]], strict=True):
            assert same(old, new)


def same(a: Outlook, b: Outlook) -> bool:
    """To the last digit."""
    numbers = ("shape", "scale", "broken", "beside", "kept")
    arrays = [(a.rows, b.rows), *zip(vars(a.spread).values(), vars(b.spread).values(), strict=True)]
    return all(getattr(a, n) == getattr(b, n) for n in numbers) and all(
        x.tobytes() == y.tobytes() and x.dtype == y.dtype for x, y in arrays
    )
