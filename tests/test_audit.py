"""The audit from the command line: of networks, with and without data, and of language models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

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


def test_a_language_model_reads_text(
    taught: Callable[..., Path], corpus: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["audit", str(taught()), "--tokens", "24", "--examples", "12", "--quiet"]
    assert main([*start, "--data", str(corpus()), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["task"] == "causal-language-modeling"
    assert told["data"]["tokens"] == 24
    assert (told["data"]["fitted_to"], told["data"]["held_out"]) == (6, 6)
    names = [layer["name"] for layer in told["layers"]]
    assert "model.layers.1.mlp.down_proj" in names
    eight = told["techniques"]["int8"]
    assert 0 < eight["nats"] < told["techniques"]["int4"]["nats"]
    assert main([*start, "--data", str(corpus()), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["layers"] == told["layers"]  # same seed, same figures
    assert main(start) == 0  # the embedded text
    assert "nats for a window of 24 tokens" in capsys.readouterr().out


def test_an_encoder_reads_labelled_text(
    tiny_encoder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{'good' if i % 2 else 'bad'} film number {i}\t{i % 2}" for i in range(24)]
    (tmp_path / "films.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
    folder = tiny_encoder("ForSequenceClassification")
    command = ["audit", str(folder), "--data", str(tmp_path / "films.tsv"), "--quiet", "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    kinds = {layer["kind"].split(",")[0] for layer in told["layers"]}
    assert {"Linear", "Embedding"} <= kinds
    assert told["data"]["tokens"] is None
    assert all(option["nats"] >= 0 for option in told["best"])


def test_weights_that_are_no_numbers_are_refused(
    taught: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(taught(), model)
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert main(["audit", str(model), "--tokens", "16", "--examples", "4", "--quiet"]) == 2
    assert "holds NaN or Inf" in capsys.readouterr().err


def test_text_that_does_not_do_is_refused(
    taught: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "short.txt").write_text("the court")
    (tmp_path / "one.txt").write_text("x" * 20)
    (tmp_path / "none.txt").write_text("")
    for file, tokens, says in (
        ("short.txt", "16", "fewer than one window"),
        ("one.txt", "16", "two examples or more"),
        ("none.txt", "16", "is empty"),
        ("lost.txt", "16", "no such"),
        ("one.txt", "4096", "at most"),
    ):
        more = ["--data", str(tmp_path / file), "--tokens", tokens, "--quiet"]
        assert main(["audit", str(taught()), *more]) == 2
        assert says in capsys.readouterr().err, file
