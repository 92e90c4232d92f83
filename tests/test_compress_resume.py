"""A run that was stopped goes on where it was, and ends with the same bytes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sprue import cli, models
from sprue.compress import compress
from sprue.errors import InputError, ResourceError
from sprue.plan import keeping, waiting, walk

Folder = Callable[..., Path]
QUICK: dict[str, Any] = {"windows": 8, "context": 32, "progress": False, "bits": 3.0}
BLOCKS = 3


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
    compress(source, out, calibrate=[corpus()], **QUICK)
    return out


class Packed:
    """Counts the matrices that are packed; fails in a chosen way at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._plan: tuple[int, Callable[[], None]] | None = None
        self._real = walk.decompose
        monkeypatch.setattr(walk, "decompose", self)

    def stop(self, at: int, how: BaseException) -> None:
        def fail() -> None:
            raise how

        self.call(at, fail)

    def call(self, at: int, what: Callable[[], None]) -> None:
        self.count, self._plan = 0, (at, what)

    def go(self) -> None:
        self.count, self._plan = 0, None

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        if self._plan is not None and self.count == self._plan[0]:
            self._plan[1]()
        return self._real(*arguments, **options)


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Packed:
    return Packed(monkeypatch)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# 1 for the embedding, which is the head too, and 7 in every block
@pytest.mark.parametrize(("at", "again"), [(1, 22), (8, 22), (15, 14), (22, 7)])
def test_it_goes_on_to_the_same_bytes(
    at: int,
    again: int,
    source: Path,
    whole: Path,
    corpus: Folder,
    tmp_path: Path,
    packed: Packed,
) -> None:
    out = tmp_path / "out"
    packed.stop(at, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="goes on from here"):
        compress(source, out, calibrate=[corpus()], **QUICK)
    assert names(tmp_path) == {".out.partial"}
    packed.go()
    compress(source, out, calibrate=[corpus()], **QUICK)
    assert packed.count == again
    assert content(out) == content(whole)
    assert names(tmp_path) == {"out"}


def test_what_does_not_fit_in_memory_goes_on_too(
    source: Path,
    whole: Path,
    corpus: Folder,
    tmp_path: Path,
    packed: Packed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Activations in files, and saved in several pieces."""
    monkeypatch.setattr(waiting, "RESIDENT", 3 * 32 * 32 * 4)
    monkeypatch.setattr(walk.Walk, "resident", 1000)
    packed.stop(20, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    saved = names(tmp_path / ".out.partial/progress")
    assert {f"walk00002-hidden-000000{i}.safetensors" for i in (0, 3, 6)} <= saved
    assert not any(name.startswith("walk00001") for name in saved)
    packed.go()
    compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    assert content(tmp_path / "out") == content(whole)


@pytest.mark.parametrize(
    "options", [{"preset": "gptq", "bits": 5.0}, {"size": "15%", "bits": None}]
)
def test_other_budgets_go_on_too(
    options: dict[str, Any], source: Path, corpus: Folder, tmp_path: Path, packed: Packed
) -> None:
    made = QUICK | options
    compress(source, tmp_path / "whole", calibrate=[corpus()], **made)
    packed.stop(20, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compress(source, tmp_path / "out", calibrate=[corpus()], **made)
    packed.go()
    compress(source, tmp_path / "out", calibrate=[corpus()], **made)
    assert packed.count < 22
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("change", ["seed", "text", "config"])
def test_another_command_starts_over(
    change: str, speaking: Folder, source: Path, corpus: Folder, tmp_path: Path, packed: Packed
) -> None:
    packed.stop(20, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    packed.go()
    other = {"seed": 1} if change == "seed" else {}
    model = speaking("llama", num_hidden_layers=BLOCKS, rms_norm_eps=1e-3)
    compress(
        model if change == "config" else source,
        tmp_path / "out",
        calibrate=[corpus(1 if change == "text" else 0)],
        **QUICK | other,
    )
    assert packed.count == 22
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.parametrize("damaged", ["model-00001", "progress/survey", "progress/state"])
def test_what_was_damaged_meanwhile_is_made_again(
    damaged: str, source: Path, whole: Path, corpus: Folder, tmp_path: Path, packed: Packed
) -> None:
    packed.stop(20, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    (file,) = (tmp_path / ".out.partial").glob(f"{damaged}*")
    file.write_bytes(file.read_bytes()[:-1])
    packed.go()
    compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    assert packed.count == 22
    assert content(tmp_path / "out") == content(whole)


def test_a_mistake_in_between_loses_nothing(
    source: Path, corpus: Folder, tmp_path: Path, packed: Packed
) -> None:
    packed.stop(20, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    with pytest.raises(Exception, match=r"missing\.txt"):
        compress(source, tmp_path / "out", calibrate=[tmp_path / "missing.txt"], **QUICK)
    packed.go()
    compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    assert packed.count == 7


def test_a_failure_that_was_foreseen_leaves_nothing(
    source: Path, corpus: Folder, tmp_path: Path, packed: Packed
) -> None:
    packed.stop(20, ResourceError("the disk is full"))
    with pytest.raises(ResourceError):
        compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    assert names(tmp_path) == set()


def test_one_that_was_not_keeps_what_is_done(
    source: Path, whole: Path, corpus: Folder, tmp_path: Path, packed: Packed
) -> None:
    packed.stop(20, MemoryError())
    with pytest.raises(MemoryError):
        compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    packed.go()
    compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    assert packed.count == 7
    assert content(tmp_path / "out") == content(whole)


def test_killed_it_goes_on(
    source: Path, whole: Path, corpus: Folder, tmp_path: Path, packed: Packed
) -> None:
    child = os.fork()
    if not child:
        packed.call(20, lambda: os.kill(os.getpid(), signal.SIGKILL))
        compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    with pytest.raises(Exception, match="no such folder"):
        models.open(tmp_path / "out")
    compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    assert packed.count == 7
    assert content(tmp_path / "out") == content(whole)


def test_the_command_says_so(
    source: Path,
    corpus: Folder,
    tmp_path: Path,
    packed: Packed,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["compress", str(source), "--out", str(tmp_path / "out"), "--bits", "3"]
    argv += ["--calibrate", str(corpus()), "--windows", "8", "--context", "32"]
    packed.stop(20, KeyboardInterrupt())
    assert cli.main(argv) == 130
    assert "interrupted: give the same command again" in capsys.readouterr().err
    packed.go()
    assert cli.main(argv) == 0
    assert f"got as far as block 2 of {BLOCKS}: going on" in capsys.readouterr().err


def test_resume_refuses_what_another_command_left(
    source: Path, whole: Path, corpus: Folder, tmp_path: Path, packed: Packed
) -> None:
    """Which part differs is said, and nothing of what was saved is lost."""
    out = tmp_path / "out"
    packed.stop(12, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compress(source, out, calibrate=[corpus()], **QUICK)
    packed.go()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / ".out.partial").iterdir()}
    for changes, words in [
        ({"bits": 4.0}, "the budget, recipe or seed differ"),
        ({"seed": 1}, "the budget, recipe or seed"),
        ({"windows": 4}, "the calibration text differ"),
    ]:
        with pytest.raises(InputError, match=words):
            compress(source, out, calibrate=[corpus()], resume=True, **{**QUICK, **changes})
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / ".out.partial").iterdir()}
    assert after == before
    done = packed.count
    compress(source, out, calibrate=[corpus()], resume=True, **QUICK)
    assert packed.count - done < 3 + 7 * BLOCKS
    assert content(out) == content(whole)


def test_resume_refuses_another_number_of_threads(
    source: Path, whole: Path, corpus: Folder, tmp_path: Path, packed: Packed
) -> None:
    """Sums come out otherwise in their last digits: the bytes could be others."""
    packed.stop(12, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        compress(source, tmp_path / "out", calibrate=[corpus()], **QUICK)
    packed.go()
    torch.set_num_threads(2)
    try:
        with pytest.raises(InputError, match="the number of threads differ"):
            compress(source, tmp_path / "out", calibrate=[corpus()], resume=True, **QUICK)
    finally:
        torch.set_num_threads(1)
    compress(source, tmp_path / "out", calibrate=[corpus()], resume=True, **QUICK)
    assert content(tmp_path / "out") == content(whole)


def test_resume_with_nothing_saved_begins(
    source: Path, whole: Path, corpus: Folder, tmp_path: Path
) -> None:
    compress(source, tmp_path / "out", calibrate=[corpus()], resume=True, **QUICK)
    assert content(tmp_path / "out") == content(whole)
