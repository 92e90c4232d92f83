"""Networks as users name them: folders, factories, and what is wrong with some."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sprue.errors import InputError
from sprue.models import nets
from sprue.models.open_net import open_net

CODE = """
import torch
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))

def fixed():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))

def broken():
    raise RuntimeError("no such size")

number = 3

def text():
    return "text"
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mycode.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "mycode", raising=False)
    return tmp_path


def weights() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), "2.weight": (2, 144), "2.bias": (2,)}
    return {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}


def test_a_factory_gets_its_weights(code: Path) -> None:
    save_file(weights(), code / "w.safetensors")
    state = torch.get_rng_state()
    net = open_net("mycode:fixed", weights=code / "w.safetensors", shape=(3, 8, 8))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(net.module.get_parameter("2.weight"), weights()["2.weight"])
    assert net.task == nets.IMAGES
    assert net.example[0].shape == (2, 3, 8, 8)
    assert not net.module.training
    assert net.parameters == sum(t.numel() for t in weights().values())


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("mycode:nothing", "no factory 'nothing'"),
        ("mycode:number", "no factory 'number'"),
        ("mycode:broken", "RuntimeError: no such size"),
        ("mycode:text", "returned a str"),
        ("nowhere:fixed", "no module named 'nowhere'"),
    ],
)
def test_a_factory_that_is_none(code: Path, model: str, says: str) -> None:
    save_file(weights(), code / "w.safetensors")
    with pytest.raises(InputError, match=says):
        open_net(model, weights=code / "w.safetensors")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("0.bias"), "lacks 0.bias"),
        (lambda w: w.update(extra=torch.ones(1)), "has, and the network does not, extra"),
        (lambda w: w.update({"2.bias": torch.ones(3)}), r"2.bias .* shape \[3\].*expects \[2\]"),
        (lambda w: w["2.bias"].fill_(torch.nan), "2.bias .*NaN or Inf"),
        (lambda w: w["0.weight"].fill_(torch.inf), "0.weight .*NaN or Inf"),
    ],
)
def test_weights_that_do_not_fit(
    code: Path, change: Callable[[dict[str, torch.Tensor]], object], says: str
) -> None:
    found = weights()
    change(found)
    save_file(found, code / "w.safetensors")
    with pytest.raises(InputError, match=says):
        open_net("mycode:fixed", weights=code / "w.safetensors")


def test_weights_that_are_no_file(code: Path) -> None:
    (code / "cut.safetensors").write_bytes(b"\x20\0\0\0\0\0\0\0{")
    torch.save({}, code / "w.pt")
    for name, says in (
        ("w.pt", "is a pickle"),
        ("none.safetensors", "no such file"),
        ("cut.safetensors", "cut.safetensors"),
    ):
        with pytest.raises(InputError, match=says):
            open_net("mycode:fixed", weights=code / name)
    with pytest.raises(InputError, match="needs its weights"):
        open_net("mycode:fixed")


def test_options_that_make_no_sense(code: Path, tiny_resnet: Path) -> None:
    save_file(weights(), code / "w.safetensors")
    with pytest.raises(InputError, match="--weights belongs to"):
        open_net(tiny_resnet, weights=code / "w.safetensors")
    with pytest.raises(InputError, match="expected a task among"):
        open_net(tiny_resnet, task="poetry")
    with pytest.raises(InputError, match="expected a decoder among"):
        open_net(tiny_resnet, decoder="ssd")
    with pytest.raises(InputError, match="--decoder"):
        open_net("mycode:fixed", weights=code / "w.safetensors", task=nets.BOXES)
    with pytest.raises(InputError, match="not sentence-embeddings"):
        open_net("mycode:fixed", weights=code / "w.safetensors", task=nets.SENTENCES)


def test_a_folder_of_images(tiny_resnet: Path) -> None:
    net = open_net(tiny_resnet)
    assert net.task == nets.IMAGES
    assert net.classes == ("ant", "bee", "cow")
    assert net.preprocess["size"] == [32, 32]
    assert net.preprocess["mean"] == [0.5, 0.4, 0.3]
    assert net.preprocess["top"] == pytest.approx(1.0)
    with torch.no_grad():
        assert net.module(*net.example).shape == (2, 3)


@pytest.mark.parametrize(
    ("kind", "task", "shape"),
    [
        ("ForSequenceClassification", nets.TEXTS, (2, 2)),
        ("ForTokenClassification", nets.TOKENS, (2, 16, 2)),
        ("ForQuestionAnswering", nets.ANSWERS, (2, 16, 2)),
        ("Model", nets.SENTENCES, (2, 32)),
    ],
)
def test_a_folder_of_texts(
    tiny_encoder: Callable[..., Path], kind: str, task: str, shape: tuple[int, ...]
) -> None:
    net = open_net(tiny_encoder(kind))
    assert net.task == task
    assert net.inputs == ("input_ids", "token_type_ids", "attention_mask")
    assert net.length == 32
    assert net.classes is None  # LABEL_0 and LABEL_1 are no names
    with torch.no_grad():
        assert net.module(*net.example).shape == shape


def test_sentences_are_pooled_over_their_tokens(tiny_encoder: Callable[..., Path]) -> None:
    """As by hand, and whatever stands behind the end of a text."""
    net = open_net(tiny_encoder("Model"))
    ids = torch.tensor([[2, 10, 11, 3, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    kinds = torch.zeros_like(ids)
    inner: nn.Module = net.module.get_submodule("net")
    with torch.no_grad():
        states = inner(input_ids=ids[:, :4], attention_mask=mask[:, :4]).last_hidden_state
        found = net.module(ids, kinds, mask)
    expected = nn.functional.normalize(states.mean(1), dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_pooling_that_is_not_known(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_encoder("Model"), folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(InputError, match="mean of the tokens or the first"):
        open_net(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no safetensors weights"),
        (lambda f: (f / "model.safetensors").write_bytes(b"123"), "cannot be opened"),
        (lambda f: _without(f, "classifier.1.bias"), "lack"),
        (lambda f: _spoiled(f), "NaN or Inf"),
        (lambda f: _class(f, "ResNetForPoetry"), "none of the tasks"),
    ],
)
def test_folders_that_cannot_be_used(
    tiny_resnet: Path, tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_resnet, folder)
    spoil(folder)
    with pytest.raises(InputError, match=says):
        open_net(folder)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def _without(folder: Path, name: str) -> None:
    found = _tensors(folder)
    found.pop(name)
    save_file(found, folder / "model.safetensors", {"format": "pt"})


def _spoiled(folder: Path) -> None:
    found = _tensors(folder)
    found["classifier.1.bias"][0] = torch.nan
    save_file(found, folder / "model.safetensors", {"format": "pt"})


def _class(folder: Path, name: str) -> None:
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | {"architectures": [name]}))
