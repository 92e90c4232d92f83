"""The audit from the command line: of networks, with and without data, and of language models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sprue.cli import main


def command(network: Any, *more: str) -> list[str]:
    start = ["audit", network.spec, "--weights", str(network.weights), "--input", "3x8x8"]
    return [*start, "--quiet", *more]


@pytest.fixture(autouse=True)
def here(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(network.folder)
    monkeypatch.syspath_prepend(str(network.folder))


def test_what_repeats_itself_is_found(
    network: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    more = ("--data", str(network.images), "--examples", "64", "--report", str(page), "--json")
    assert main(command(network, *more)) == 0
    told = json.loads(capsys.readouterr().out)
    layers = {layer["name"]: layer for layer in told["layers"]}
    assert set(layers) == {"first", "second", "head"}
    assert told["parameters"]["spare"] > 0.5 * told["parameters"]["all"]  # three of four are copies
    assert "<svg" in page.read_text()
    assert main(command(network, *more[:4])) == 0
    assert "of the parameters are spare" in capsys.readouterr().out


def test_weights_alone_tell_something(network: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(network, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["layers"]) == 3
    assert told["best"] == []  # nothing is predicted without data


def test_wrong_commands(network: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, says in (
        (("--data", str(tmp_path / "none")), "no such folder or zip file"),
        (("--report", str(tmp_path / "no" / "page.html")), "cannot write"),
        (("--error", "200%"), "a share above 0%"),
    ):
        try:
            code = main(command(network, *more))
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        assert code == 2
        assert says in capsys.readouterr().err
