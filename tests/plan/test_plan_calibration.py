"""Calibration: text, tokenizer, windows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from sprue import demo, models
from sprue.errors import InputError, SprueWarning
from sprue.plan import calibration

Folder = Callable[..., Path]
Corpus = Callable[..., Path]


@pytest.fixture
def copy(speaking: Folder, tmp_path: Path) -> Callable[[str], Path]:
    """name -> a copy of a tiny model that may be changed."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(speaking(name), tmp_path / "copy"))

    return make


def test_windows_come_from_every_file(speaking: Folder, corpus: Corpus) -> None:
    source = models.open(speaking("llama"))
    found = calibration.read(source, [corpus(1), str(corpus(2))], 10, 24, 0)
    assert found.ids.shape == (10, 24)
    told = found.as_dict()
    assert told.pop("fingerprint") != calibration.read(
        source, [corpus(2), corpus(1)], 10, 24, 0
    ).as_dict().pop("fingerprint")
    assert told == {"files": ["text1.txt", "text2.txt"], "windows": 10, "context": 24}


def test_the_seed_draws_other_windows(speaking: Folder, corpus: Corpus) -> None:
    source = models.open(speaking("llama"))
    first, again, other = (
        calibration.read(source, [corpus(1)], 10, 24, seed).ids for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_context_is_what_the_model_allows(speaking: Folder, corpus: Corpus) -> None:
    source = models.open(speaking("gpt2"))
    assert calibration.read(source, [corpus(1)], 2, None, 0).ids.shape == (2, 64)
    with pytest.raises(InputError, match="at most 64 tokens, a context of 65 was given"):
        calibration.read(source, [corpus(1)], 2, 65, 0)


def test_a_long_context_is_not_taken_unasked(base6m: Path, corpus: Corpus) -> None:
    source = models.open(base6m)
    source.config.max_position_embeddings = 131072
    assert calibration.read(source, [corpus(1)], 2, None, 0).ids.shape == (2, 512)


def test_without_text_the_embedded_one_is_taken_with_a_warning(base6m: Path) -> None:
    source = models.open(base6m)
    with pytest.warns(SprueWarning, match="your own") as said:
        found = calibration.read(source, [], 4, 16, 0)
    assert len(said) == 1
    assert found.paths == demo.calibration_files()
    assert found.ids.shape == (4, 16)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gpt_neox", "gemma"])
def test_a_missing_tokenizer_is_said(name: str, copy: Folder, corpus: Corpus) -> None:
    """For some of these `transformers` would make a tokenizer without a vocabulary."""
    path = copy(name)
    (path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"has no tokenizer: put .* beside its weights"):
        calibration.read(models.open(path), [corpus(1)], 2, 16, 0)


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', "[]", '{"added_tokens": []}', "\udce9"])
def test_a_damaged_tokenizer_is_said(content: str, copy: Folder, corpus: Corpus) -> None:
    path = copy("llama")
    (path / "tokenizer.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=r"the tokenizer of .* cannot be read") as refused:
        calibration.read(models.open(path), [corpus(1)], 2, 16, 0)
    assert "\n" not in str(refused.value)


def test_code_beside_a_tokenizer_is_not_run(copy: Folder, corpus: Corpus) -> None:
    path = copy("llama")
    told = json.loads((path / "tokenizer_config.json").read_text())
    told |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (path / "tokenizer_config.json").write_text(json.dumps(told))
    (path / "evil.py").write_text("raise SystemExit('run')")
    with suppress(InputError):  # whether transformers can do without it is its own affair
        calibration.read(models.open(path), [corpus(1)], 2, 16, 0)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["absent.txt"], "no such data file"),
        (["empty.txt"], "is empty"),
        (["short.txt"], "fewer than one window"),
        (["."], "is a folder"),
        (["short.txt", "short.txt"], "given twice"),
    ],
)
def test_text_that_cannot_be_used(
    files: list[str], words: str, speaking: Folder, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(InputError, match=words):
        calibration.read(
            models.open(speaking("llama")), [tmp_path / name for name in files], 2, 16, 0
        )
