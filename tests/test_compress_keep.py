"""`compress --keep`: the smallest result that is proven to keep enough, or the best there is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sprue import cli, smallest
from sprue.errors import InputError
from sprue.runtime import artifact
from sprue.smallest import KeepReport, compress_to_keep

Folder = Callable[..., Path]
QUICK: dict[str, Any] = {"windows": 8, "context": 32, "progress": False}


@pytest.fixture(scope="module")
def source(taught: Folder) -> Path:
    return taught()


@pytest.fixture(scope="module")
def kept(source: Path, corpus: Folder, tmp_path_factory: pytest.TempPathFactory) -> KeepReport:
    out = tmp_path_factory.mktemp("kept") / "out"
    return compress_to_keep(
        source, out, 0.97, data=[corpus(1)], calibrate=[corpus()], seed=0, **QUICK
    )


def test_it_is_proven_and_small(kept: KeepReport, source: Path) -> None:
    told = artifact.check(kept.out)
    assert kept.passed
    assert told["verdict"] == kept.verdict
    assert kept.verdict["kept_at_least"] >= 0.97
    assert told["bytes"] < 0.4 * told["original"]["bytes"]
    assert "Kept: at least" in kept.table()
    assert not list(kept.out.parent.glob(".*"))


def test_smaller_ones_were_tried_and_did_not_keep_enough(kept: KeepReport) -> None:
    mine = kept.artifact["bytes"]
    smaller = [t for t in kept.trials if t["bytes"] < mine]
    assert smaller
    assert all(t["kept_at_least"] < 0.97 or t["bytes"] > 0.9 * mine for t in smaller)


def test_less_to_keep_takes_fewer_bytes(
    kept: KeepReport, source: Path, corpus: Folder, tmp_path: Path
) -> None:
    less = compress_to_keep(
        source, tmp_path / "out", 0.8, data=[corpus(1)], calibrate=[corpus()], seed=0, **QUICK
    )
    assert less.artifact["bytes"] < kept.artifact["bytes"]


def test_the_same_bytes_twice(
    kept: KeepReport, source: Path, corpus: Folder, tmp_path: Path
) -> None:
    again = compress_to_keep(
        source, tmp_path / "out", 0.97, data=[corpus(1)], calibrate=[corpus()], seed=0, **QUICK
    )
    assert again.artifact == kept.artifact
    assert again.trials == kept.trials


def test_killed_after_a_trial_it_goes_on(
    kept: KeepReport,
    source: Path,
    corpus: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 0
    real = smallest.carry_out

    def carry_out(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(smallest, "carry_out", carry_out)
    arguments: dict[str, Any] = {"data": [corpus(1)], "calibrate": [corpus()], "seed": 0, **QUICK}
    with pytest.raises(KeyboardInterrupt):
        compress_to_keep(source, tmp_path / "out", 0.97, **arguments)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="is of another command"):
        compress_to_keep(source, tmp_path / "out", 0.96, resume=True, **arguments)
    done = count
    again = compress_to_keep(source, tmp_path / "out", 0.97, resume=True, **arguments)
    assert again.artifact == kept.artifact
    assert count - done == len(kept.trials) - 1  # the first was not made again


def test_nothing_keeps_so_much(
    source: Path, corpus: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best that was found stays, with what it misses, and the exit code says so.

    Half of the weights are zeros: 8 bits alone may by chance be better than the original.
    """
    out = tmp_path / "out"
    options = ["--windows", "8", "--context", "32", "--quiet", "--json", "--sparsity", "50%"]
    text = ["--calibrate", str(corpus()), "--data", str(corpus(1))]
    code = cli.main(
        ["compress", str(source), "--out", str(out), "--keep", "0.9999999", *text, *options]
    )
    told = json.loads(capsys.readouterr().out)
    assert code == 1
    assert told["verdict"]["kept_at_least"] < 0.999  # far from what chance does
    assert told["verdict"]["passed"] is False
    assert "was asked for" in told["verdict"]["statement"]
    assert artifact.check(out)["verdict"]["passed"] is False


def test_with_a_size_there_is_one_result(source: Path, corpus: Folder, tmp_path: Path) -> None:
    made = compress_to_keep(
        source, tmp_path / "out", 0.2, size="25%", calibrate=[corpus()], seed=0, **QUICK
    )
    assert len(made.trials) == 1
    assert made.passed
    assert made.artifact["bytes"] <= 0.25 * made.artifact["original"]["bytes"]


def test_zeros_beside_it(source: Path, corpus: Folder, tmp_path: Path) -> None:
    made = compress_to_keep(
        source,
        tmp_path / "out",
        0.5,
        pattern="2:4",
        data=[corpus(1)],
        calibrate=[corpus()],
        seed=0,
        **QUICK,
    )
    rows = made.artifact["recipe"]
    choices = [{**rows["default"], **row} for row in rows["tensors"].values()]
    assert sum(choice["pattern"] == "2:4" for choice in choices) == 14


@pytest.mark.parametrize("keep", [0.0, 1.0, 1.5])
def test_a_share_out_of_range_is_refused(keep: float, source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="above 0 and below 1"):
        compress_to_keep(source, tmp_path / "out", keep, **QUICK)


def test_too_little_text_is_refused(source: Path, corpus: Folder, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("the court shall have power " * 4, encoding="utf-8")
    with pytest.raises(InputError, match="text"):
        compress_to_keep(source, tmp_path / "out", 0.9, data=[short], calibrate=[corpus()], **QUICK)
    assert {p.name for p in tmp_path.iterdir()} == {"short.txt"}


def test_a_folder_in_the_way_is_left_alone(source: Path, corpus: Folder, tmp_path: Path) -> None:
    (tmp_path / ".out.search").mkdir()
    (tmp_path / ".out.search/mine").write_text("mine")
    with pytest.raises(InputError, match="is in the way"):
        compress_to_keep(source, tmp_path / "out", 0.9, calibrate=[corpus()], **QUICK)
    assert (tmp_path / ".out.search/mine").read_text() == "mine"
