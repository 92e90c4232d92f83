"""Networks that are made smaller for an engine, from the command line and back from disk."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sprue import degate as verb
from sprue.cli import main
from sprue.degating import artifact
from sprue.errors import InputError
from sprue.plan.teach import Lessons
from sprue.plan.teach import teach as plain_teach
from sprue.proof.resident import Resident
from sprue.runtime.engines import open_session
from sprue.structure.cut import shaped


@pytest.fixture(autouse=True)
def here(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(network.folder)
    monkeypatch.syspath_prepend(str(network.folder))
    monkeypatch.setattr(verb, "SHARES", (0.4,))  # one share is enough here
    monkeypatch.setattr("sprue.proof.latency._ROUND", 0.001)
    monkeypatch.setattr("sprue.proof.resident.measure", lambda *_: Resident(2, 1))


def command(network: Any, out: Path, *more: str) -> list[str]:
    return [
        *("compress", network.spec, "--weights", str(network.weights), "--input", "3x8x8"),
        *("--calibrate", str(network.images), "--out", str(out), "--quiet", *more),
    ]


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_network_becomes_smaller_and_answers_the_same(
    network: Any, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code = main(command(network, out, "--target", target, "--keep", "90%", "--json"))
    told = json.loads(capsys.readouterr().out)
    assert code == (0 if told["passed"] else 1)
    assert told["verdict"]["kept_at_least"] >= 0.9
    assert told["bytes"]["ratio"] < 0.8
    assert {t["precision"] for t in told["trials"]} == {"fp32", "int8"}
    assert min(t["share"] for t in told["trials"]) < 0.5  # what repeats itself was found
    result = artifact.read(out)
    assert result.told["verdict"]["statement"] == told["statement"]
    cut = result.told["cut"]
    assert cut["precision"] == "fp32" or (
        result.told["saturation"]["matrices"] == 3 - cut["spared"]
    )
    session = open_session(result.file, ["x"])
    assert session.run([np.zeros((5, 3, 8, 8), np.float32)]).shape == (5, 4)
    assert not (tmp_path / ".out.partial").exists()

    page = tmp_path / "page.html"
    again = [  # other examples too, so that less is asked for
        *("verify", network.spec, str(out), "--weights", str(network.weights), "--input", "3x8x8"),
        *("--data", str(network.images), "--keep", "75%", "--quiet", "--report", str(page)),
    ]
    assert main(again) == 0
    assert "Kept: at least" in capsys.readouterr().out
    assert "<svg" in page.read_text()
    assert artifact.read(out).told["verdict"]["data"]["examples"] == 400


SMOOTH = """
import torch


class Smooth(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 64, 3)
        self.act, self.head = torch.nn.SiLU(), torch.nn.Linear(64, 4)

    def forward(self, x):
        return self.head(self.act(self.b(self.act(self.a(x)))).mean((2, 3)))


def smooth():
    return Smooth()
"""


@pytest.mark.parametrize("vnni", [True, False])  # weights of 8 bits, and of 7
def test_what_is_fast_enough_and_too_large_gets_coarser_weights(
    vnni: bool,
    network: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "smooth_net.py").write_text(SMOOTH)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(verb, "SHARES", ())
    monkeypatch.setattr(verb.precision, "vnni", lambda: vnni)
    made = importlib.import_module("smooth_net").smooth()
    generator = torch.Generator().manual_seed(0)
    weights = {
        n: torch.randn(t.shape, generator=generator) * t[0].numel() ** -0.5
        for n, t in made.state_dict().items()
    }
    save_file(weights, tmp_path / "w.safetensors")
    out = tmp_path / "out"
    spec = ["smooth_net:smooth", "--weights", str(tmp_path / "w.safetensors"), "--input", "3x8x8"]
    words = ["--target", "openvino", "--keep", "50%", "--size", "27%", "--quiet", "--json"]
    code = main(["compress", *spec, "--calibrate", str(network.images), "--out", str(out), *words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    told = json.loads(captured.out)
    assert any(t["hard"] for t in told["trials"])
    result = artifact.read(out)
    assert result.told["cut"]["precision"] == "int8-w4"
    assert set(result.told["bits"]) == {"b"}  # the only large layer
    assert result.told["bits"]["b"] in (4, 6)
    assert told["bytes"]["ratio"] <= 0.27
    page = tmp_path / "page.html"
    again = ["--data", str(network.images), "--keep", "40%", "--quiet", "--report", str(page)]
    assert main(["verify", spec[0], str(out), *spec[1:], *again]) == 0
    assert f"weights of 1 layer stored in {result.told['bits']['b']} bits" in page.read_text()


def test_dense_is_pruned_alone_and_the_same_every_time(
    network: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--target", "dense", "--flops", "40%", "--keep", "50%", "--json")
    assert main(command(network, tmp_path / "a", *more)) == 0
    told = json.loads(capsys.readouterr().out)
    assert {t["precision"] for t in told["trials"]} == {"fp32"}
    assert told["parameters"]["result"] < 0.6 * told["parameters"]["original"]
    assert main(command(network, tmp_path / "b", *more)) == 0
    capsys.readouterr()
    a, b = (artifact.read(tmp_path / name).told for name in ("a", "b"))
    assert a["files"] == b["files"]
    assert {before for before, _ in a["pruned"].values()} == {64}
    assert min(after for _, after in a["pruned"].values()) < 64
    whole = load_file(tmp_path / "a" / "model.safetensors")
    back = shaped(network.model, whole)  # the cut network in torch again
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    session = open_session(tmp_path / "a" / "model.onnx", ["x"])
    with torch.no_grad():
        np.testing.assert_allclose(back(x).numpy(), session.run([x.numpy()]), atol=1e-3)
    with pytest.raises(ValueError, match=r"head\.bias is missing"):
        shaped(network.model, {n: t for n, t in whole.items() if n != "head.bias"})
    _damage(network, tmp_path / "a", capsys)


def _damage(network: Any, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A result that was altered is refused."""
    verify = [
        *("verify", network.spec, str(out), "--weights", str(network.weights), "--input", "3x8x8"),
        *("--data", str(network.images), "--quiet"),
    ]
    whole = (out / "model.onnx").read_bytes()
    (out / "model.onnx").write_bytes(whole[:-10])
    assert main(verify) == 2
    assert "is not what was written" in capsys.readouterr().err
    (out / "model.onnx").unlink()
    assert main(verify) == 2
    assert "is missing" in capsys.readouterr().err
    shutil.rmtree(out)
    assert main(verify) == 2
    assert "no such folder or file" in capsys.readouterr().err


def test_a_budget_that_is_not_met_gives_the_best_and_says_so(
    network: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--target", "onnxruntime", "--size", "900", "--keep", "99%")
    assert main(command(network, tmp_path / "out", *more)) == 1
    assert "Not met: size is" in capsys.readouterr().out
    assert artifact.read(tmp_path / "out").file.is_file()


def test_interrupted_work_goes_on(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", []
    given = verb.Given(network.spec, network.weights, shape=(3, 8, 8), calibrate=network.images)
    asked = verb.Asked("onnxruntime", 0.5)

    def stop(words: str) -> None:
        seen.append(words)
        if "40% of the FLOPs" in words:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verb.degate(given, out, asked, progress=stop)
    assert (tmp_path / ".out.partial").is_dir()
    with pytest.raises(InputError, match="another budget"):
        verb.degate(given, out, verb.Asked("onnxruntime", 0.6), resume=True)
    words: list[str] = []
    report = verb.degate(given, out, asked, resume=True, progress=words.append)
    assert "the whole network" in seen
    assert "the whole network" not in words  # that was done
    assert len([t for t in report.trials if t["share"] == 1]) == 2


def test_training_is_by_labels_unless_they_are_declined(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two trainings, the second from what the first left, on a clock that ticks with each look."""
    monkeypatch.setattr(verb, "SHARES", (0.8, 0.4))
    truths: list[bool] = []

    def teach(original: Any, student: Any, inputs: Any, lessons: Any, progress: Any) -> Any:
        truths.append(lessons.truth is not None)
        few = Lessons(lessons.loss, steps=8, batch=16, mixed=True, truth=lessons.truth)
        return plain_teach(original, student, inputs, few, progress)

    monkeypatch.setattr("sprue.degate.teach", teach)
    given = verb.Given(network.spec, network.weights, shape=(3, 8, 8), calibrate=network.images)
    for labels in (True, False):
        out = tmp_path / str(labels)
        flops = None if labels else 0.4  # all of the training at once
        asked = verb.Asked("dense", 0.5, minutes=0.5, labels=labels, flops=flops)
        report = verb.degate(given, out, asked)
        stages = {0.0, 12.0, 30.0} if labels else {0.0, 30.0}
        assert {t["tuned"] for t in report.trials} == stages
        assert truths == [labels] * (len(stages) - 1)
        truths.clear()
        cut = artifact.read(out).told
        assert {before for before, _ in cut["pruned"].values()} == {64}


def test_wrong_commands(
    network: Any,
    tiny_encoder: Callable[..., Path],
    tmp_path: Path,
    base6m: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    target = ("--target", "onnxruntime")
    plain = ["compress", network.spec, "--weights", str(network.weights), "--input", "3x8x8"]
    rows = [
        (command(network, out), "state what it is for with --target"),
        (command(network, out, *target, "--bits", "4"), "--bits is for language models"),
        (command(network, out, *target, "--size", "huge"), "the size 'huge' is not understood"),
        (command(network, out, *target, "--size", "9GB"), "at most the original's"),
        (command(network, out, *target, "--flops", "0.01%"), "cannot be met"),
        ([*plain, "--out", str(out), *target], "cut by examples"),
        (["compress", str(base6m), "--out", str(out), *target], "holds a language model"),
        (
            [
                "compress",
                str(tiny_encoder("Model")),
                "--out",
                str(out),
                *target,
                "--calibrate",
                str(tmp_path / "no.tsv"),
            ],
            "no such file",
        ),
        (command(network, out, *target, "--calibrate", str(network.images)), "takes one file"),
    ]
    for arguments, says in rows:
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert says in error, error
        assert error.count("sprue: error: ") == 1
        assert "Traceback" not in error
        assert not out.exists()
        assert not (tmp_path / ".out.partial").exists()
