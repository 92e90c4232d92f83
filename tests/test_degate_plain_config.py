"""Dense results of Hugging Face models, which come back by their config alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from sprue import degate as verb
from sprue.degating import artifact
from sprue.models.open_net import open_net
from sprue.models.plain_config import numbers_of, told_with
from sprue.plan.uniform import sets_of
from sprue.proof.resident import Resident
from sprue.runtime.engines import open_session
from sprue.structure.units import groups


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sprue.proof.latency._ROUND", 0.001)
    monkeypatch.setattr("sprue.proof.resident.measure", lambda *_: Resident(2, 1))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    rows = [f"{words[i % 8]} {words[i * 3 % 7]} {words[i % 5]}\t{i % 2}" for i in range(80)]
    path = tmp_path / "texts.tsv"
    path.write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    return path


def test_a_cut_encoder_comes_back_by_its_config(
    tiny_encoder: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    folder = tiny_encoder("ForSequenceClassification")
    given = verb.Given(str(folder), calibrate=texts)
    report = verb.degate(given, tmp_path / "out", verb.Asked("dense", 0.1, flops=0.75))
    out = tmp_path / "out"
    told = json.loads((out / "config.json").read_text())
    assert told["intermediate_size"] < 48
    assert told["hidden_size"] == 32
    pruned = artifact.read(out).told["pruned"]
    assert {tuple(x) for x in pruned.values()} == {(48, told["intermediate_size"])}
    back = transformers.AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert sum(p.numel() for p in back.parameters()) == report.as_dict()["parameters"]["result"]
    net = open_net(str(out))
    session = open_session(out / "model.onnx", net.inputs)
    with torch.no_grad():
        expected = net.module(*net.example).numpy()
    answers = session.run([x.numpy() for x in net.example])
    np.testing.assert_allclose(answers, expected, atol=1e-5)


def test_widths_that_no_config_says_are_told(
    tiny_encoder: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    """A fifth of the FLOPs takes attention heads too, whose number alone a BERT cannot change."""
    given = verb.Given(str(tiny_encoder("ForSequenceClassification")), calibrate=texts)
    verb.degate(given, tmp_path / "out", verb.Asked("dense", 0.1, flops=0.4))
    assert not (tmp_path / "out" / "config.json").exists()
    (says,) = artifact.read(tmp_path / "out").told["fallbacks"]
    assert "the result has no config.json: what it says goes down to" in says


def test_numbers_and_what_follows_them(
    tiny_encoder: Callable[..., Path], tiny_resnet: Path
) -> None:
    net = open_net(str(tiny_encoder("ForSequenceClassification")))
    inner: Any = net.module.get_submodule("net")
    numbers = {number.name: number for number in numbers_of(inner)}
    assert ("bert.encoder.layer.1.output.dense.weight", 1) in numbers["intermediate_size"].places
    assert "num_hidden_layers" not in numbers  # other parameters, not other sizes
    found = groups(net.module, net.example)
    (some,) = sets_of(net.module, found)
    assert [len(found[i]) for i in some] == [48, 48]
    shapes = {name: tuple(t.shape) for name, t in inner.state_dict().items()}
    told = told_with(inner, shapes)
    assert told is not None
    assert told["intermediate_size"] == 48
    for name in list(shapes):
        if name.endswith("0.intermediate.dense.bias"):
            shapes[name] = (47,)
    assert told_with(inner, shapes) is None

    images = open_net(str(tiny_resnet))
    lists = {(number.name, number.at) for number in numbers_of(images.module.get_submodule("net"))}
    assert ("embedding_size", None) in lists or ("hidden_sizes", 0) in lists
