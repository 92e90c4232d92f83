"""Files as the arguments of a network, with what is true of each example."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sprue.data.feed import read_examples
from sprue.errors import InputError
from sprue.models.open_net import open_net


def test_images_are_prepared_as_the_model_says(tiny_resnet: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name, color in (("bee", (255, 0, 0)), ("ant", (0, 255, 0))):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), color).save(tmp_path / "data" / name / "x.png")
    net = open_net(tiny_resnet)
    found = read_examples(net, tmp_path / "data")
    assert found.inputs[0].shape == (2, 3, 32, 32)
    assert found.truth == [0, 1]
    ant = found.inputs[0][0, :, 0, 0].tolist()
    assert ant == pytest.approx([(0 - 0.5) / 0.2, (1 - 0.4) / 0.3, (0 - 0.3) / 0.4])
    (tmp_path / "data" / "preprocess.yaml").write_text("mean: [0, 0, 0]\nstd: [1, 1, 1]\n")
    again = read_examples(net, tmp_path / "data").inputs[0]
    assert again[0, :, 0, 0].tolist() == [0, 1, 0]
    (tmp_path / "own.yaml").write_text("classes: [bee, ant]")
    own = read_examples(net, tmp_path / "data", preprocess=tmp_path / "own.yaml")
    assert own.truth == [1, 0]


def test_texts_are_as_long_as_the_longest(
    tiny_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    net = open_net(tiny_encoder("ForSequenceClassification", ("no", "yes")))
    (tmp_path / "d.tsv").write_text("good film\tyes\na bad bad film\tno\n")
    ids, kinds, mask = read_examples(net, tmp_path / "d.tsv").inputs
    assert ids.shape == (2, 6)
    assert mask.sum(1).tolist() == [4, 6]
    assert not kinds.any()
    assert read_examples(net, tmp_path / "d.tsv").truth == [1, 0]
    short = read_examples(net, tmp_path / "d.tsv", length=4)
    assert short.inputs[0].shape == (2, 4)
    with torch.no_grad():
        assert net.module(*short.inputs).shape == (2, 2)


def test_pairs_stay_beside_one_another(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    net = open_net(tiny_encoder("Model"))
    lines = "".join(f"good film {c}\tbad film {c}\t0.{i}\n" for i, c in enumerate("abcd"))
    (tmp_path / "d.tsv").write_text(lines)
    found = read_examples(net, tmp_path / "d.tsv")
    assert (len(found), len(found.inputs[0]), found.rows) == (4, 8, 2)
    some = found.some([2, 0])
    assert some.truth == [0.2, 0.0]
    assert torch.equal(some.inputs[0], found.inputs[0][[4, 5, 0, 1]])


def test_words_keep_their_tags(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    net = open_net(tiny_encoder("ForTokenClassification", ("O", "B-X", "I-X")))
    row = {"tokens": ["good", "xy", "film"], "tags": ["O", "B-X", "I-X"]}
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    found = read_examples(net, tmp_path / "d.jsonl")
    # [CLS] good x ##y film [SEP]
    assert next(iter(found.truth or [])) == [-100, 0, 1, -100, 2, -100]


def test_answers_know_where_their_tokens_stand(
    tiny_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    net = open_net(tiny_encoder("ForQuestionAnswering"))
    row: dict[str, Any] = {"question": "good", "context": "not bad film"}
    row["answers"] = {"text": ["bad"], "answer_start": [4]}
    (tmp_path / "d.jsonl").write_text(json.dumps(row))
    (answer,) = read_examples(net, tmp_path / "d.jsonl").truth or []
    # [CLS] good [SEP] not bad film [SEP]
    assert answer.offsets.tolist() == [
        *([-1, -1] for _ in range(3)),
        *([0, 3], [4, 7], [8, 12], [-1, -1]),
    ]
    assert answer.between(4, 5) == "bad film"
    assert answer.span(4, 7) == (4, 4)


def test_data_that_does_not_fit(
    tiny_resnet: Path, tiny_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    net = open_net(tiny_resnet)
    with pytest.raises(InputError, match="no such folder or zip file"):
        read_examples(net, tmp_path / "none")
    with pytest.raises(InputError, match="no such file"):
        read_examples(net, tmp_path, preprocess=tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("- just\n- a list\n")
    with pytest.raises(InputError, match="expected names with values"):
        read_examples(net, tmp_path, preprocess=tmp_path / "bad.yaml")
    texts = open_net(tiny_encoder("ForSequenceClassification", ("no", "yes")))
    (tmp_path / "d.tsv").write_text("good film\tmaybe\n")
    with pytest.raises(InputError, match="does not know the label 'maybe'; it knows no, yes"):
        read_examples(texts, tmp_path / "d.tsv")
