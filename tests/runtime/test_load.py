"""An artifact as transformers loads it: the same numbers, nothing dense, and tampering refused."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import sprue.runtime
from sprue.errors import ArtifactError, InputError
from sprue.runtime.linear import TiedLinear
from sprue.runtime.load import is_artifact, load
from sprue.weights.packed import Packed

IDS = torch.arange(24).view(2, 12) * 4

FAMILIES = ("llama", "gpt2", "gemma2", "opt")
Made = tuple[Path, Any, dict[str, Packed]]


@pytest.fixture
def damaged(make: Callable[[str, bool], Made], tmp_path: Path) -> Path:
    """A copy of a sound artifact, to be damaged."""
    return Path(shutil.copytree(make("llama", True)[0], tmp_path / "damaged"))


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(IDS).logits
    return logits.float()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_dense_matrices(
    make: Callable[[str, bool], Made], hand_made: SimpleNamespace, family: str, tied: bool
) -> None:
    folder, model, modules = make(family, tied)
    reference = hand_made.substituted(model, modules)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    expected = _logits(reference)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(_logits(loaded), expected, rtol=1e-5, atol=1e-5)
    half = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.dtype == half.get_input_embeddings()(IDS).dtype == torch.bfloat16
    # Twice the error that the dense model makes in bfloat16 (the reference is float32).
    allowed = 2 * (_logits(reference.to(torch.bfloat16)) - expected).abs().max()
    assert float((_logits(half) - expected).abs().max()) <= float(allowed)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_dense_is_kept(make: Callable[[str, bool], Made], family: str, tied: bool) -> None:
    folder, _, modules = make(family, tied)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    held = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
    for name, stored in modules.items():
        for key, tensor in stored.tensors.items():
            buffer = held.pop(f"{name}.{key}")
            assert buffer.dtype == tensor.dtype
            assert torch.equal(buffer, tensor)
    # What remains: norms, biases and rotary tables, all of them vectors.
    assert all(tensor.ndim <= 1 for tensor in held.values())
    if tied:
        assert isinstance(loaded.get_output_embeddings(), TiedLinear)
    loaded.tie_weights()  # as adapters and resizing do; it finds nothing to tie
    packed_bytes = sum(stored.bits for stored in modules.values()) // 8
    rest = sum(tensor.nbytes for tensor in held.values())
    assert loaded.get_memory_footprint() == packed_bytes + rest


def test_scales_do_not_choose_the_dtype(make: Callable[[str, bool], Made]) -> None:
    folder = make("llama", True)[0]
    assert json.loads((folder / "config.json").read_text())["dtype"] is None
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == torch.float32
    given = type(loaded).from_pretrained(
        None, config=AutoConfig.from_pretrained(folder), state_dict=loaded.state_dict()
    )
    assert torch.equal(_logits(given), _logits(loaded))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_is_a_model_of_its_own(make: Callable[[str, bool], Made], family: str) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(make(family, True)[0])
    expected = _logits(loaded)
    copied = copy.deepcopy(loaded)
    assert torch.equal(_logits(copied), expected)
    copied.get_input_embeddings().scale.zero_()
    assert torch.equal(_logits(loaded), expected)


def test_generation_with_a_cache_equals_generation_without(
    make: Callable[[str, bool], Made],
) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(make("opt", True)[0])
    cached, plain = (
        loaded.generate(IDS[:1], max_new_tokens=8, do_sample=False, use_cache=cache)
        for cache in (True, False)
    )
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_again_and_sealed_it_loads(
    make: Callable[[str, bool], Made], family: str, tmp_path: Path
) -> None:
    folder = make(family, True)[0]
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "again")
    with pytest.raises(ArtifactError, match=r"sprue\.json is missing.*sprue\.runtime\.seal"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    sprue.runtime.seal(tmp_path / "again", like=folder)
    assert sprue.runtime.check(tmp_path / "again")["sprue"] == "0.1.0"
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(_logits(again), _logits(loaded))


def test_the_body_without_its_head_loads(make: Callable[[str, bool], Made]) -> None:
    folder = make("llama", False)[0]
    body = AutoModel.from_pretrained(folder)
    whole = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(body(IDS).last_hidden_state, whole.model(IDS).last_hidden_state)


# --- tampering


def _flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


SHARD = "model-b.safetensors"
TAMPERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (
        lambda d: _flip(d / SHARD, -5),
        r"model-b.safetensors was changed .*expected sha256 [0-9a-f]{64}, received [0-9a-f]{64}",
    ),
    "a flipped bit in the header": (lambda d: _flip(d / SHARD, 12), "model-b.safetensors"),
    "a truncated shard": (
        lambda d: (d / SHARD).write_bytes((d / SHARD).read_bytes()[:-1]),
        r"model-b.safetensors is truncated: expected \d+ bytes, received \d+",
    ),
    "an empty shard": (
        lambda d: (d / SHARD).write_bytes(b""),
        "model-b.safetensors is truncated: expected 8 bytes, received 0",
    ),
    "a missing shard that the index no longer has": (
        lambda d: (
            (d / SHARD).unlink(),
            _edit(
                d / "model.safetensors.index.json",
                lambda c: [
                    c["weight_map"].pop(k) for k, v in [*c["weight_map"].items()] if v == SHARD
                ],
            ),
        ),
        "model-b.safetensors is missing: sprue.json lists it",
    ),
    "an extra shard": (
        lambda d: save_file({"x": torch.zeros(1)}, d / "model-c.safetensors"),
        "model-c.safetensors is not part of the compressed model",
    ),
    "code beside the weights": (
        lambda d: (d / "modeling.py").write_text(""),
        "modeling.py is not part of the compressed model",
    ),
    "a changed config": (
        lambda d: _edit(d / "config.json", lambda c: c.update(rms_norm_eps=0.5)),
        "config.json was changed",
    ),
    "a changed layout": (
        lambda d: _edit(
            d / "config.json",
            lambda c: c["quantization_config"]["modules"].pop("model.embed_tokens"),
        ),
        "config.json was changed",
    ),
    "no layouts": (
        lambda d: _edit(d / "config.json", lambda c: c["quantization_config"].pop("modules")),
        "config.json was changed",
    ),
    "no sprue.json": (lambda d: (d / "sprue.json").unlink(), "sprue.json is missing"),
    "sprue.json that is not JSON": (
        lambda d: (d / "sprue.json").write_text("{"),
        "sprue.json is not valid JSON",
    ),
    "sprue.json that is a list": (
        lambda d: (d / "sprue.json").write_text("[]"),
        "expected a JSON object",
    ),
    "sprue.json without files": (
        lambda d: (d / "sprue.json").write_text("{}"),
        'expected "files" with a sha256',
    ),
    "sprue.json that lists no weights": (
        lambda d: _edit(d / "sprue.json", lambda c: c.update(files={"config.json": "0"})),
        "lists no config.json or no safetensors",
    ),
    "sprue.json that points elsewhere": (
        lambda d: _edit(d / "sprue.json", lambda c: c["files"].update({"../x": "0"})),
        r"lists '../x': expected files of this folder",
    ),
}


@pytest.mark.parametrize("kind", TAMPERED)
def test_tampering_is_refused(damaged: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tamper, message = TAMPERED[kind]
    tamper(damaged)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(transformers.PreTrainedModel, "_load_pretrained_model", never)
    for opens in (AutoModelForCausalLM.from_pretrained, sprue.runtime.check, load):
        with pytest.raises(ArtifactError, match=message):
            opens(damaged)


def test_a_config_without_us_is_refused(damaged: Path) -> None:
    """`from_pretrained` does not ask us then; whatever of ours opens the folder sees it."""
    _edit(damaged / "config.json", lambda c: c.pop("quantization_config"))
    for opens in (sprue.runtime.check, load):
        with pytest.raises(ArtifactError, match=r"config\.json was changed"):
            opens(damaged)
    (damaged / "config.json").unlink()
    for opens in (sprue.runtime.check, load):
        with pytest.raises(ArtifactError, match=r"config\.json is missing"):
            opens(damaged)


# --- a folder that is sealed as it is, but was made wrongly


def _made_wrongly(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    _edit(folder / "config.json", change)
    sprue.runtime.seal(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["quantization_config"].update(version=2), "expected version 1 .* version 2"),
        (
            lambda c: c["quantization_config"]["modules"].update({"model.nose": {}}),
            "'model.nose', which LlamaForCausalLM does not have",
        ),
        (
            lambda c: c["quantization_config"]["modules"].update(
                {"model.norm": c["quantization_config"]["modules"]["model.embed_tokens"]}
            ),
            "'model.norm', which is no linear",
        ),
        (
            lambda c: c["quantization_config"]["modules"]["model.embed_tokens"].update(
                shape=[9, 9]
            ),
            r"with shape \[9, 9\]; the model has \[99, 32\]",
        ),
    ],
)
def test_a_wrong_config_is_refused(
    damaged: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    _made_wrongly(damaged, change)
    with pytest.raises(ArtifactError, match=message):
        AutoModelForCausalLM.from_pretrained(damaged)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.0.mlp.up_proj.scale"])
def test_a_tensor_that_was_not_written_is_never_made_up(damaged: Path, name: str) -> None:
    index = json.loads((damaged / "model.safetensors.index.json").read_text())
    shard = damaged / index["weight_map"][name]
    tensors = load_file(shard)
    del tensors[name]
    save_file(tensors, shard)
    _edit(damaged / "model.safetensors.index.json", lambda c: c["weight_map"].pop(name))
    sprue.runtime.seal(damaged)
    with pytest.raises(ArtifactError, match=f"tensor {name} is in none of the safetensors files"):
        AutoModelForCausalLM.from_pretrained(damaged)


def test_only_artifacts_are_sealed(hand_made: SimpleNamespace, tmp_path: Path) -> None:
    hand_made.model("llama", True).save_pretrained(tmp_path)
    with pytest.raises(ArtifactError, match="describes no packed model"):
        sprue.runtime.seal(tmp_path)


# --- load


def test_load_opens_artifacts_and_ordinary_models(
    make: Callable[[str, bool], Made], hand_made: SimpleNamespace, tmp_path: Path
) -> None:
    folder, model, modules = make("llama", True)
    assert is_artifact(folder)
    expected = _logits(hand_made.substituted(model, modules))
    torch.testing.assert_close(_logits(load(folder)), expected, rtol=1e-5, atol=1e-5)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert not is_artifact(tmp_path)
    assert load(tmp_path).dtype == torch.float32
    assert load(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_load_says_what_is_wrong(tmp_path: Path, damaged: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model: expected a folder with config\.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="cannot be loaded as a language model"):
        load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(InputError, match="cannot be loaded as a language model"):
        load(tmp_path)
    for device in ("cuda:7", "gpu"):
        with pytest.raises(InputError, match=f"device '{device}' cannot be used here"):
            load(damaged, device=device)
