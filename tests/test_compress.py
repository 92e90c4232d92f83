"""The verb `compress`, end to end, on tiny instances of every family."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sprue import models
from sprue.compress import CompressReport, compress
from sprue.errors import InputError, ResourceError, SprueWarning
from sprue.plan import forecast
from sprue.runtime import artifact

Folder = Callable[..., Path]
QUICK: dict[str, Any] = {"windows": 8, "context": 32, "progress": False}
UNLIKE = ("ministral", "gemma3_text", "smollm3")  # their blocks differ: take all of them
# One table stands for several kinds of model: of these the quicker method must do.
ALIKE = (
    "llama-rope3",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gpt_neox-serial",
    "olmo2",
    "smollm3",
)


def run(path: Path, ids: Tensor) -> Tensor:
    """Logits of a folder as a user loads it, less their mean, which means nothing."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
    return logits - logits.mean(-1, keepdim=True)


def divergence(original: Tensor, result: Tensor) -> float:
    """KL in nats per token."""
    p, q = original.log_softmax(-1), result.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def stored(path: Path) -> dict[str, int]:
    """Tensor name -> bytes, over all shards."""
    found: dict[str, int] = {}
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, "pt") as shard:
            found |= {name: shard.get_tensor(name).nbytes for name in shard.keys()}  # noqa: SIM118
    return found


def check(report: CompressReport, source: Path, bits: float) -> None:
    """What holds for every result: it loads, its figures are those of its files."""
    told, sizes, original = artifact.check(report.out), stored(report.out), models.open(source)
    assert {k: v for k, v in told.items() if k != "files"} == report.artifact
    assert told["bytes"] == sum(sizes.values())
    weights = sum(prod(original.shape(name)) for name in original.entries)
    assert told["bits_per_weight"]["file"] == pytest.approx(8 * told["bytes"] / weights)
    assert 0.96 * bits < told["bits_per_weight"]["linears"] <= bits
    for name, tensor in told["tensors"].items():
        mine = {key: size for key, size in sizes.items() if key.rpartition(".")[0] == name}
        mine.pop(f"{name}.bias", None)
        assert tensor["bits"] == 8 * sum(mine.values())


@pytest.fixture(scope="module")
def ids(speaking: Folder, corpus: Folder) -> Tensor:
    """Windows of a text like the calibration text, but another one."""
    tokenizer = AutoTokenizer.from_pretrained(speaking("gpt2", num_hidden_layers=2))
    return torch.tensor(tokenizer(corpus(9).read_text()[:120]).input_ids).reshape(5, 24)


def test_every_family(
    tiny: str, speaking: Folder, corpus: Folder, ids: Tensor, tmp_path: Path
) -> None:
    fewer = {} if tiny in UNLIKE else {"num_hidden_layers": 2}
    source = speaking(tiny, **fewer)
    how: dict[str, Any] = {"preset": "gptq", "bits": 4.2} if tiny in ALIKE else {"bits": 3.0}
    report = compress(source, tmp_path / "out", calibrate=[corpus()], **how, **QUICK)
    check(report, source, how["bits"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    before, after = run(source, ids), run(report.out, ids)
    assert torch.isfinite(after).all()
    # random weights of width 32 leave three bits much to lose; at six bits it is a twentieth
    assert divergence(before, after) < 0.15
    assert float((after - before).norm()) < 0.9 * float(before.norm())


def test_every_family_has_a_tiny_model(tiny_types: set[str]) -> None:
    for family in models.FAMILIES:
        assert tiny_types & set(family.model_types), family.name


@pytest.mark.parametrize(
    ("name", "preset", "bits"),
    [
        ("llama", "gptq", 3.2),
        ("gpt2", "gptq", 4.4),
        ("opt-narrow", "rtn", 4.3),
        ("stablelm-parallel", "caldera", 4.0),
        ("gemma2", "svd", 6.0),
    ],
)
def test_presets(
    name: str, preset: str, bits: float, speaking: Folder, corpus: Folder, ids: Tensor,
    tmp_path: Path,
) -> None:  # fmt: skip
    source = speaking(name, num_hidden_layers=2)
    report = compress(
        source, tmp_path / "out", preset=preset, bits=bits, calibrate=[corpus()], **QUICK
    )
    check(report, source, bits)
    before, after = run(source, ids), run(report.out, ids)
    assert torch.isfinite(after).all()
    if preset != "svd":  # random weights have no low rank
        assert divergence(before, after) < 0.15


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("llama", torch.bfloat16), ("gpt2", torch.float16), ("gemma", torch.bfloat16)],
)
def test_half_precision_sources(
    name: str, dtype: torch.dtype, speaking: Folder, corpus: Folder, ids: Tensor, tmp_path: Path
) -> None:
    source = speaking(name, dtype, num_hidden_layers=2)
    options = {"preset": "gptq", "bits": 4.6, "calibrate": [corpus()], **QUICK}
    report = compress(source, tmp_path / "out", **options)
    check(report, source, 4.6)
    assert divergence(run(source, ids), run(report.out, ids)) < 0.05
    loaded = AutoModelForCausalLM.from_pretrained(report.out)
    assert loaded.dtype == dtype
    assert loaded(ids).logits.dtype == dtype
    for name, tensor in loaded.named_parameters():
        assert tensor.dtype == dtype, name


@pytest.mark.parametrize(
    ("name", "tied"), [("llama", False), ("gpt2", False), ("gpt_neox", True), ("opt", True)]
)
def test_tied_and_untied(
    name: str, tied: bool, speaking: Folder, corpus: Folder, ids: Tensor, tmp_path: Path
) -> None:
    source = speaking(name, num_hidden_layers=2, tie_word_embeddings=tied)
    assert models.open(source).tied == tied
    options = {"preset": "gptq", "bits": 4.6, "calibrate": [corpus()], **QUICK}
    report = compress(source, tmp_path / "out", **options)
    check(report, source, 4.6)
    packed = set(report.artifact["tensors"]) - {n for n in report.artifact["tensors"] if ".0." in n}
    assert ("lm_head" in packed) == (not tied)
    assert divergence(run(source, ids), run(report.out, ids)) < 0.05


def test_a_sharded_source_gives_the_same_tensors(
    speaking: Folder, corpus: Folder, tmp_path: Path
) -> None:
    whole = speaking("llama", num_hidden_layers=2)
    model = AutoModelForCausalLM.from_pretrained(whole)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    AutoTokenizer.from_pretrained(whole).save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    options = {"preset": "rtn", "bits": 4.6, "calibrate": [corpus()], **QUICK}
    for name, source in (("a", whole), ("b", tmp_path / "sharded")):
        compress(source, tmp_path / name, **options)
    for file in (tmp_path / "a").glob("*.safetensors"):
        assert (tmp_path / "b" / file.name).read_bytes() == file.read_bytes()


def test_the_tokenizer_goes_along(speaking: Folder, corpus: Folder, tmp_path: Path) -> None:
    source = speaking("gpt2", num_hidden_layers=2)
    compress(source, tmp_path / "out", preset="rtn", calibrate=[corpus()], bits=5, **QUICK)
    before, after = (AutoTokenizer.from_pretrained(p) for p in (source, tmp_path / "out"))
    assert after("a court").input_ids == before("a court").input_ids


def test_the_report(
    speaking: Folder, corpus: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = speaking("gpt2", num_hidden_layers=2)
    options = QUICK | {"progress": True}
    out = tmp_path / "deep" / "out"  # whose parents are made
    report = compress(str(source), str(out), preset="rtn", calibrate=[corpus()], bits=5, **options)
    told = json.loads(json.dumps(report.as_dict()))
    assert told["out"] == str(out)
    assert told["bytes"] == report.artifact["bytes"]
    assert told["forecast"] == report.forecast.as_dict()
    assert told["fallbacks"] == report.artifact["fallbacks"]
    table = report.table().splitlines()
    assert table[0].startswith(f"{out}: {told['bytes']:,} bytes of tensors, ")
    assert table[-1] == f"next: sprue verify {source} {out} --data FILE"
    assert capsys.readouterr().err == f"this will take {report.forecast.line()}\n"


def test_without_text_it_warns_and_takes_its_own(speaking: Folder, tmp_path: Path) -> None:
    source = speaking("gpt2", num_hidden_layers=2)
    with pytest.warns(SprueWarning, match="--calibrate"):
        report = compress(source, tmp_path / "out", preset="rtn", bits=8.5, **QUICK)
    assert "code.txt" in report.artifact["data"]["files"]


def test_an_unknown_device_is_refused(speaking: Folder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="device 'quantum' cannot be used here"):
        compress(speaking("llama"), tmp_path / "out", device="quantum")


def test_too_little_memory_is_refused_before_any_work(
    speaking: Folder, corpus: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Nothing:
        available = 0

    monkeypatch.setattr(forecast.psutil, "virtual_memory", Nothing)
    with pytest.raises(ResourceError, match="more memory"):
        compress(speaking("llama"), tmp_path / "out", calibrate=[corpus()], **QUICK)
    assert list(tmp_path.iterdir()) == []
