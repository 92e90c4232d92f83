"""Opening a model: what is read, what older checkpoints are called, what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sprue import models
from sprue.errors import InputError
from sprue.models import locate, tensorfile

Folder = Callable[..., Path]


@pytest.fixture
def copy(folder: Folder, tmp_path: Path) -> Callable[[str], Path]:
    """A tiny model that a test may damage."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(folder(name), tmp_path / name))

    return make


def edit_config(path: Path, **changes: Any) -> None:
    file = path / "config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in (raw | changes).items() if v is not ...}))


def edit_weights(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    file = path / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def shard(path: Path, parts: int = 2) -> None:
    """Split model.safetensors into shards with an index."""
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    table = {}
    for k in range(parts):
        name = f"model-{k + 1:05}-of-{parts:05}.safetensors"
        mine = {n: t for j, (n, t) in enumerate(sorted(tensors.items())) if j % parts == k}
        save_file(mine, path / name, metadata={"format": "pt"})
        table |= dict.fromkeys(mine, name)
    index = {"metadata": {}, "weight_map": table}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def test_names_are_those_of_the_modules(tiny: str, folder: Folder) -> None:
    from transformers import AutoModelForCausalLM

    source = models.open(folder(tiny))
    model = AutoModelForCausalLM.from_pretrained(folder(tiny), dtype=torch.float32)
    parameters = dict(model.named_parameters())  # a tied pair is named once, by its embedding
    assert set(source.entries) == set(parameters)
    assert all(torch.equal(source.tensor(name), p) for name, p in parameters.items())
    assert source.tied == (model.lm_head.weight is model.get_input_embeddings().weight)
    assert not source.unused
    assert source.nbytes == sum(p.nbytes for p in parameters.values())
    modules = {name for name, _ in model.named_modules()}
    family = source.family
    assert {family.blocks, family.embedding, family.head, family.block(0)} <= modules
    assert family.positions is None or family.positions in modules
    norms = {n for n in modules if "norm" in n.rsplit(".", 1)[-1] or n.endswith("ln_f")}
    assert (family.norm in modules) == bool({n for n in norms if family.blocks not in n})


def test_a_tensor_is_its_own(folder: Folder) -> None:
    source = models.open(folder("llama", torch.bfloat16))
    name = "model.layers.0.mlp.up_proj.weight"
    first = source.tensor(name)
    assert (first.dtype, tuple(first.shape)) == (torch.bfloat16, source.shape(name))
    first.zero_()
    assert source.tensor(name).any()
    assert source.weight("model.layers.0.mlp.up_proj").dtype == torch.float32


def test_rows_are_picked_without_the_whole(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorfile.chunks, "__defaults__", (1000,))
    source = models.open(folder("llama"))
    ids = torch.tensor([95, 3, 3, 0, 40])
    whole = source.tensor("model.embed_tokens.weight")
    assert torch.equal(source.rows("model.embed_tokens.weight", ids), whole[ids])
    assert len(list(tensorfile.chunks(source.entries["model.embed_tokens.weight"]))) > 1


def test_a_tied_head_is_the_embedding(folder: Folder) -> None:
    source = models.open(folder("gpt2"))
    assert source.tied
    assert torch.equal(source.weight("lm_head"), source.weight("transformer.wte"))


def test_shards_hold_the_same_model(folder: Folder, copy: Callable[[str], Path]) -> None:
    path = copy("qwen3")
    shard(path)
    source, single = models.open(path), models.open(folder("qwen3"))
    assert set(source.index.values()) == {p.name for p in path.glob("model-*.safetensors")}
    assert all(torch.equal(source.tensor(n), single.tensor(n)) for n in single.entries)


def test_fingerprint_is_the_sha256_of_the_bytes(copy: Callable[[str], Path]) -> None:
    path = copy("opt")
    first = models.open(path).fingerprint()
    assert first == hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest()
    edit_weights(path, lambda t: t["model.decoder.layers.0.fc1.weight"].mul_(2))
    assert models.open(path).fingerprint() != first


@pytest.mark.parametrize(
    ("name", "prefix"), [("gpt2", "transformer."), ("opt", "model."), ("llama", "model.")]
)
def test_older_names_without_the_prefix(
    name: str, prefix: str, folder: Folder, copy: Callable[[str], Path]
) -> None:
    path = copy(name)

    def strip(tensors: dict[str, Tensor]) -> None:
        for key in [k for k in tensors if k.startswith(prefix)]:
            tensors[key.removeprefix(prefix)] = tensors.pop(key)
        tensors["h.0.attn.bias"] = torch.ones(4, 4, dtype=torch.uint8)

    edit_weights(path, strip)
    old, new = models.open(path), models.open(folder(name))
    assert set(old.entries) == set(new.entries)
    assert all(torch.equal(old.tensor(n), new.tensor(n)) for n in new.entries)
    assert old.unused == ("h.0.attn.bias",)
    assert old.nbytes == new.nbytes


@pytest.mark.parametrize("same", [True, False])
def test_a_stored_head_is_tied_only_when_it_is_equal(
    same: bool, copy: Callable[[str], Path]
) -> None:
    path = copy("llama")

    def add(tensors: dict[str, Tensor]) -> None:
        head = tensors["model.embed_tokens.weight"].clone()
        tensors["lm_head.weight"] = head if same else head + 1

    edit_weights(path, add)
    source = models.open(path)
    assert source.tied is same
    assert ("lm_head.weight" in source.entries) is not same


def test_a_tied_head_may_be_stored_in_place_of_the_embedding(copy: Callable[[str], Path]) -> None:
    path = copy("llama")
    edit_weights(path, lambda t: t.update({"lm_head.weight": t.pop("model.embed_tokens.weight")}))
    source = models.open(path)
    assert source.tied
    assert source.tensor("model.embed_tokens.weight").shape == (96, 32)


def test_companions_are_what_belongs_beside_the_weights(copy: Callable[[str], Path]) -> None:
    path = copy("phi")
    for name in ("tokenizer.json", "merges.txt", "LICENSE", "tokenizer.py", "pytorch_model.bin"):
        (path / name).write_text("x")
    names = [file.name for file in models.open(path).companions()]
    assert names == ["LICENSE", "generation_config.json", "merges.txt", "tokenizer.json"]


def empty(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def pickles_only(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def truncated(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def trailing(path: Path) -> None:
    with (path / "model.safetensors").open("ab") as stream:
        stream.write(b"12345678")


def header(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        (path / "model.safetensors").write_bytes(content)

    return write


def missing_shard(path: Path) -> None:
    shard(path)
    (path / "model-00002-of-00002.safetensors").unlink()


def shard_elsewhere(path: Path) -> None:
    shard(path)
    index = path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00002", "../model-00002"))


def index_without_map(path: Path) -> None:
    shard(path)
    (path / "model.safetensors.index.json").write_text("[]")


def index_names_too_much(path: Path) -> None:
    shard(path)
    index = path / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    raw["weight_map"]["more"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(raw))


def without(name: str) -> Callable[[Path], None]:
    def remove(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    return lambda path: edit_weights(path, remove)


def configured(**changes: Any) -> Callable[[Path], None]:
    return lambda path: edit_config(path, **changes)


def integers(path: Path) -> None:
    name = "model.norm.weight"
    edit_weights(path, lambda t: t.update({name: t[name].to(torch.int8)}))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (empty, "is empty"),
    "no config": (lambda p: (p / "config.json").unlink(), "no config.json"),
    "config is no JSON": (lambda p: (p / "config.json").write_text("{"), "not valid JSON"),
    "config is not text": (lambda p: (p / "config.json").write_bytes(b"\xff"), "not valid JSON"),
    "config is a list": (lambda p: (p / "config.json").write_text("[]"), "should hold an object"),
    "unknown architecture": (configured(model_type="bert"), "Known: .*llama.*write a table"),
    "no model type": (configured(model_type=...), "unknown architecture"),
    "model type is a list": (configured(model_type=["llama"]), "unknown architecture"),
    "heads that do not divide": (configured(num_attention_heads=5), r"config\.json"),
    "wrong kind of value": (configured(hidden_size="wide"), r"config\.json cannot be used"),
    "no blocks": (configured(num_hidden_layers=0), "no blocks"),
    "quantized": (configured(quantization_config={"quant_method": "gptq"}), "already quantized"),
    "pickles only": (pickles_only, "only pickled weights .pytorch_model.bin."),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "has no weights"),
    "truncated": (truncated, "truncated or corrupt.*should have"),
    "trailing bytes": (trailing, "truncated or corrupt"),
    "nothing in the file": (header(b""), "truncated or corrupt"),
    "huge header": (header(b"\xff" * 64), "truncated or corrupt"),
    "header is no JSON": (header((8).to_bytes(8, "little") + b"notjson!"), "cannot be read"),
    "header is a list": (header((2).to_bytes(8, "little") + b"[]"), "cannot be read"),
    "header nests too deep": (header((9000).to_bytes(8, "little") + b"[" * 9000), "be read"),
    "header lacks fields": (header((8).to_bytes(8, "little") + b'{"a":{}}'), "cannot be read"),
    "missing shard": (missing_shard, "lacks the shard model-00002-of-00002"),
    "shard elsewhere": (shard_elsewhere, "outside the folder"),
    "index without map": (index_without_map, "no weight_map"),
    "index names too much": (index_names_too_much, "'more'"),
    "missing tensor": (without("model.layers.1.mlp.up_proj.weight"), r"layers\.1\.mlp\.up_proj"),
    "missing embedding": (without("model.embed_tokens.weight"), "embed_tokens"),
    "missing norm": (without("model.norm.weight"), r"model\.norm\.weight"),
    "other shapes": (configured(intermediate_size=64), r"has shape \[.*48\]; .* asks for \[.*64\]"),
    "integers": (integers, "is I8; expected one of F32, F16, BF16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, copy: Callable[[str], Path]) -> None:
    damage, message = REFUSED[case]
    path = copy("llama")
    damage(path)
    with pytest.raises(InputError, match=message):
        models.open(path)


def test_every_byte_of_a_header_may_be_wrong(folder: Folder, tmp_path: Path) -> None:
    """A flipped byte in the header is refused or harmless; nothing but InputError comes out."""
    content = bytearray((folder("gpt2") / "model.safetensors").read_bytes())
    file = tmp_path / "model.safetensors"
    length = int.from_bytes(content[:8], "little")
    for at in range(0, 8 + length, 37):
        damaged = content.copy()
        damaged[at] ^= 0x15
        file.write_bytes(damaged)
        try:
            tensorfile.read_header(file)
        except InputError as error:
            assert "truncated or corrupt" in str(error)  # noqa: PT017 - most, not all, raise


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite(value: float, copy: Callable[[str], Path]) -> None:
    path = copy("llama")
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(path, lambda t: t[name][2].fill_(value))
    source = models.open(path)
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj\.weight' has NaN or inf"):
        source.tensor(name)
    with pytest.raises(InputError, match="NaN"):
        source.rows(name, torch.tensor([2]))


def test_a_file_that_shrinks_later(copy: Callable[[str], Path]) -> None:
    path = copy("llama")
    source = models.open(path)
    truncated(path)
    last = max(source.entries, key=lambda name: source.entries[name].stop)
    with pytest.raises(InputError, match="truncated"):
        source.tensor(last)


def test_remote_code_is_not_run(copy: Callable[[str], Path]) -> None:
    path = copy("phi3")
    (path / "evil.py").write_text("raise SystemExit('run')")
    auto = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    edit_config(path, auto_map=auto)
    assert models.open(path).family.name == "Phi-3"


@pytest.mark.parametrize("name", ["", "./nowhere", "/nowhere/model", "~/nowhere", "a/b/c", "x..y"])
def test_a_path_that_is_not_there(name: str) -> None:
    with pytest.raises(InputError, match=r"no such folder|no model given"):
        models.open(name)


def test_a_path_below_a_folder_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="no such folder: runs/model"):
        models.open("runs/model")


def test_a_file_in_place_of_a_folder(folder: Folder) -> None:
    with pytest.raises(InputError, match="is a file"):
        models.open(folder("llama") / "model.safetensors")


@pytest.mark.parametrize("name", ["gpt2", "some-one/some-model"])
def test_offline_says_so_at_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(InputError, match="cannot be fetched offline"):
        models.open(name)
    assert time.monotonic() - begin < 5


def test_offline_takes_what_the_cache_has(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some-one--some-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder("llama"), repository / "snapshots" / ("0" * 40))
    assert models.open("some-one/some-model").family.name.startswith("Llama")


def test_an_unreachable_hub_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    def unreachable(*_: Any, **__: Any) -> None:
        raise locate._transport_error()("no route")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(InputError, match=r"hub cannot be reached .* \(no route\)"):
        models.open("some-one/some-model")


def test_the_hub_may_have_pickles_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.hf_api import ModelInfo

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    info = ModelInfo(id="a/b", siblings=[{"rfilename": "pytorch_model.bin"}])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    with pytest.raises(InputError, match=r"no safetensors weights \(found: pytorch_model.bin\)"):
        models.open("a/b")
