"""The verb `verify` on the embedded model: against itself, rounded, packed, and broken."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from sprue import demo, runtime
from sprue.errors import ArtifactError, InputError, SprueWarning
from sprue.runtime import quantization_config
from sprue.verify import _names, verify
from sprue.weights import packed
from sprue.weights.grids import integer

QUICK: dict[str, Any] = {"context": 64, "windows": 6, "costs": False, "progress": False}


@pytest.fixture(scope="module")
def texts() -> tuple[Path, ...]:
    return demo.test_files()


def copied(base6m: Path, folder: Path) -> Path:
    return Path(shutil.copytree(base6m, folder))


def rewritten(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor | None]) -> Path:
    """`folder` with every tensor replaced by what `change` makes of it, or without it."""
    file = folder / "model.safetensors"
    changed = {name: change(name, tensor) for name, tensor in load_file(file).items()}
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    save_file(kept, file, metadata={"format": "pt"})
    return folder


def round_to_bits(bits: int) -> Callable[[str, torch.Tensor], torch.Tensor]:
    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.ndim != 2:
            return tensor
        grid = integer.round_to_nearest(tensor.float(), bits, 64, True)
        return packed.dense(*grid).to(tensor.dtype)

    return change


@pytest.fixture(scope="module")
def rounded(base6m: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with every matrix rounded to 3 bits, stored in 16 as before."""
    folder = copied(base6m, tmp_path_factory.mktemp("verify") / "rounded")
    return rewritten(folder, round_to_bits(3))


@pytest.fixture(scope="module")
def artifact(base6m: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model packed in 4 bits, with the sprue.json of an artifact."""
    folder = copied(base6m, tmp_path_factory.mktemp("verify") / "artifact")
    layouts, tensors, told = {}, {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if ".layers." not in name or tensor.ndim != 2:
            tensors[name] = tensor
            continue
        grid = integer.round_to_nearest(tensor.float(), 4, 64, True)
        stored = packed.Packed((tensor.shape[0], tensor.shape[1]), *grid, 0.01)
        layouts[module] = packed.layout(stored)
        tensors |= {f"{module}.{key}": value for key, value in stored.tensors.items()}
        told[module] = {
            "bits": stored.bits,
            "weights": tensor.numel(),
            "bits_per_weight": stored.bits_per_weight,
            "error": stored.error,
            "grid": "int",
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization_config(layouts)
    (folder / "config.json").write_text(json.dumps(config))
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    sprue = {
        "sprue": "0.1.0",
        "tensors": told,
        "bits_per_weight": {"linears": 4.5, "file": 7.25},
        "fallbacks": ["model.layers.0.mlp.up_proj: more damping"],
        "recipe": {"preset": "rtn"},
        "files": files,
    }
    (folder / "sprue.json").write_text(json.dumps(sprue))
    return folder


def test_the_original_against_itself_loses_nothing_and_every_figure_is_there(
    base6m: Path, texts: tuple[Path, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    figures, page = tmp_path / "figures.json", tmp_path / "report.html"
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    report = verify(
        str(base6m),
        str(base6m),
        texts,
        context=64,
        windows=4,
        keep=1.0,
        report=page,
        figures=figures,
    )
    assert torch.equal(state[0], torch.random.get_rng_state())
    assert np.array_equal(state[1], np.random.get_state()[1])
    assert capfd.readouterr() == ("", "")  # no progress where nobody watches
    assert report.passed
    found = json.loads(figures.read_text())
    assert found == json.loads(json.dumps(report.as_dict(full=True)))
    assert found["excess"] == found["kl_nats"] == 0
    assert found["top1_agreement"] == found["kept"] == found["kept_at_least"] == 1
    assert found["intervals"]["kept"] == [1, 1]
    assert found["verdict"]["passed"] is True
    assert found["perplexity"]["original"] == found["perplexity"]["result"]
    assert found["bytes"] == {"original": 11540992, "result": 11540992}
    assert found["bits_per_weight"] == {"linears": 16, "file": 16}
    for pair in ("tokens_per_second", "peak_rss_bytes", "baseline_rss_bytes"):
        assert found[pair]["original"] > 0
        assert found[pair]["result"] > 0
    assert found["peak_rss_bytes"]["original"] > found["baseline_rss_bytes"]["original"]
    assert found["energy"]["source"]
    assert [set(w) for w in found["windows"].values()] == [
        {"nll_original", "nll_result", "kl_nats", "top1_agreement"}
    ] * 4
    assert page.read_text().startswith("<!doctype html>")


def test_a_rounded_copy_is_measured_and_fails_a_tight_margin(
    base6m: Path, rounded: Path, texts: tuple[Path, ...]
) -> None:
    report = verify(base6m, rounded, texts, keep=0.999, **QUICK)
    assert not report.passed
    found = report.as_dict()
    assert found["verdict"]["passed"] is False
    assert "99.9% was asked for" in report.table()
    assert found["kept"] < 0.999
    assert found["kl_nats"] > 0
    assert found["top1_agreement"] < 1
    assert found["tokens_per_second"] is found["peak_rss_bytes"] is found["energy"] is None
    assert set(found["files"]) == {"code.txt", "legal.txt", "security.txt", "stories.txt"}
    nll = [math.log(file["perplexity"]["result"]) for file in found["files"].values()]
    assert math.log(found["perplexity"]["result"]) == pytest.approx(sum(nll) / 4)
    assert verify(base6m, rounded, texts, keep=0.5, **QUICK).passed


def test_the_same_seed_gives_the_same_figures(
    base6m: Path, rounded: Path, texts: tuple[Path, ...]
) -> None:
    first, again, other = (
        verify(base6m, rounded, texts[:1], seed=seed, **QUICK).as_dict() for seed in (1, 1, 2)
    )
    for figure in ("kl_nats", "perplexity", "intervals", "data"):
        assert first[figure] == again[figure]
    assert first["kl_nats"] != other["kl_nats"]


def test_an_artifact_is_measured_as_it_loads_and_its_records_are_told(
    base6m: Path, artifact: Path, texts: tuple[Path, ...], tmp_path: Path
) -> None:
    report = verify(base6m, artifact, texts, report=tmp_path / "page.html", **QUICK)
    found = report.as_dict()
    assert found["bits_per_weight"] == {"linears": 4.5, "file": 7.25}
    assert found["fallbacks"] == ["model.layers.0.mlp.up_proj: more damping"]
    assert 0 < found["kl_nats"] < 0.1
    assert found["verdict"]["passed"] is None
    assert report.passed
    tensors = load_file(artifact / "model.safetensors").values()
    assert found["bytes"]["result"] == sum(t.numel() * t.element_size() for t in tensors)
    page = (tmp_path / "page.html").read_text()
    for words in ("more damping", "preset: rtn", "Stored error by layer", "gate_proj"):
        assert words in page


def test_the_verdict_is_noted_in_the_artifact(
    base6m: Path, artifact: Path, texts: tuple[Path, ...], tmp_path: Path
) -> None:
    here = copied(artifact, tmp_path / "noted")
    before = json.loads((here / "sprue.json").read_text())
    report = verify(base6m, here, texts, keep=0.5, **QUICK)
    after = json.loads((here / "sprue.json").read_text())
    assert after["verdict"]["passed"] is True
    assert after["verdict"]["kept_at_least"] == report.verdict.kept_at_least
    assert after["verdict"]["data"] == report.as_dict()["data"]
    assert {**after, "verdict": None} == {**before, "verdict": None}
    runtime.check(here)


def test_a_verdict_that_cannot_be_noted_is_given_all_the_same(
    base6m: Path,
    artifact: Path,
    texts: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = copied(artifact, tmp_path / "read-only")
    before = (here / "sprue.json").read_bytes()

    def refuse(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.warns(SprueWarning, match="could not be noted"):
        assert verify(base6m, here, texts, **QUICK).passed
    assert (here / "sprue.json").read_bytes() == before
    assert not list(here.glob("*.tmp"))


def test_a_tampered_artifact_is_refused(
    base6m: Path, artifact: Path, texts: tuple[Path, ...], tmp_path: Path
) -> None:
    damaged = copied(artifact, tmp_path / "damaged")
    raw = bytearray((damaged / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(raw)
    with pytest.raises(ArtifactError, match="was changed or damaged"):
        verify(base6m, damaged, texts, **QUICK)


def test_a_result_without_tokenizer_files_uses_the_originals(
    base6m: Path, rounded: Path, texts: tuple[Path, ...], tmp_path: Path
) -> None:
    bare = copied(rounded, tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    assert verify(base6m, bare, texts[:1], **QUICK).passed


def another_vocabulary(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    shutil.rmtree(folder)
    with torch.random.fork_rng():
        LlamaForCausalLM(config).save_pretrained(folder)


def another_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    a, b = "a", "b"
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    file.write_text(json.dumps(content))


def without_a_weight(folder: Path) -> None:
    lost = "model.layers.3.mlp.up_proj.weight"
    rewritten(folder, lambda name, tensor: None if name == lost else tensor)


def with_nan(folder: Path) -> None:
    def poison(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor * math.nan if name == "model.norm.weight" else tensor

    rewritten(folder, poison)


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (another_vocabulary, "vocabulary of 4096 tokens, the result one of 50"),
        (another_tokenizer, "different tokenizers"),
        (without_a_weight, "lacks 1 of its model's weights, first model.layers.3.mlp.up_proj"),
        (with_nan, "the result gives logits that are not finite"),
        (truncated, "cannot be loaded|truncated"),
        (only_pickles, "has no weights"),
        (lambda folder: (folder / "config.json").unlink(), "holds no model"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_results_that_cannot_be_compared(
    base6m: Path,
    texts: tuple[Path, ...],
    tmp_path: Path,
    breakage: Callable[[Path], object],
    words: str,
) -> None:
    result = copied(base6m, tmp_path / "result")
    breakage(result)
    with pytest.raises(InputError, match=words):
        verify(base6m, result, texts[:1], **QUICK)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keep": 0.0}, "share to keep above 0"),
        ({"keep": 99.0}, "share to keep above 0 and up to 1, got 99"),
        ({"batch": 0}, "batch of 1"),
        ({"windows": 1}, "2 windows or more"),
        ({"context": 1}, "context of 2 to 256 tokens, got 1"),
        ({"context": 257}, "context of 2 to 256 tokens, got 257"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"report": "nowhere/at/all.html"}, "cannot write nowhere"),
        ({"figures": "."}, "cannot write ."),
        ({"data": []}, "no data file"),
        ({"data": ["nothing.txt"]}, "no such data file"),
        ({"result": "nothing"}, "no such folder"),
        ({"original": "./nothing"}, "no such folder"),
        ({"original": "nobody/knows-this"}, "nobody/knows-this"),
    ],
)
def test_arguments_that_cannot_be_used(
    base6m: Path, texts: tuple[Path, ...], arguments: dict[str, Any], words: str
) -> None:
    given = {"original": str(base6m), "result": base6m, "data": texts[:1], **QUICK, **arguments}
    with pytest.raises(InputError, match=words):
        verify(**given)


def test_too_little_text_is_refused(base6m: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("A few words only.")
    with pytest.raises(InputError, match="fewer than one window of 64"):
        verify(base6m, base6m, [short], **QUICK)
    short.write_text("A few words only. " * 20)
    with pytest.raises(InputError, match="gives one window only"):
        verify(base6m, base6m, [short], **QUICK)


def test_files_are_named_by_what_tells_them_apart() -> None:
    assert _names(["a/code/test.txt", "a/law/test.txt"]) == ["code/test.txt", "law/test.txt"]
    assert _names(["/x/a.txt", "/x/b.txt"]) == ["a.txt", "b.txt"]
    assert _names(["deep/down/a.txt"]) == ["a.txt"]
