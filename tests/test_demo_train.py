"""The script that trains an embedded model: a few steps of a very small one."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
SIZES = "--hidden 16 --layers 1 --heads 2 --kv-heads 1 --ffn 32 --vocab 300 --context 32 --batch 2"


@pytest.fixture(scope="module")
def train() -> Any:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("demo_train", ROOT / "demo" / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # The dataclasses of the script look their own module up while they are made.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "demo_train", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Two capabilities with a little text each."""
    for name, line in (("one", "the cat sat on the mat. "), ("two", "a dog ran in the fog. ")):
        (tmp_path / "text" / name).mkdir(parents=True)
        for kind in ("train", "valid"):
            document = line * 40 + "\n\n<|endoftext|>\n"
            (tmp_path / "text" / name / f"{kind}.txt").write_text(document * 3)
    return tmp_path / "text"


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_trained_model_loads_and_has_learned(
    train: Any, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.random.get_rng_state()
    train.main([str(text), "--out", str(tmp_path / "m"), "--steps", "60", *SIZES.split()])
    assert torch.equal(torch.random.get_rng_state(), generator)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert model.config.hidden_size == 16
    assert tokenizer.decode(tokenizer("Grüße, the cat!")["input_ids"]) == "Grüße, the cat!"
    reported = capsys.readouterr().out
    for name in ("one", "two"):
        found = float(reported.split(f"{name}: perplexity ")[1].split()[0])
        assert found < 0.7 * len(tokenizer)  # a uniform guess has the size of the vocabulary


def test_an_interrupted_run_goes_on_to_the_same_model(
    train: Any, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--steps", "6", "--save-every", "0", *SIZES.split()]
    train.main([str(text), "--out", str(tmp_path / "whole"), *options])

    step, calls = train.train_step, []

    def stop_at_the_fourth(*args: Any) -> float:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return float(step(*args))

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", stop_at_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            train.main([str(text), "--out", str(tmp_path / "parts"), *options])
    assert not (tmp_path / "parts" / "config.json").exists()
    train.main([str(text), "--out", str(tmp_path / "parts"), *options])
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_another_seed_gives_another_model(train: Any, text: Path, tmp_path: Path) -> None:
    for seed in ("0", "1"):
        options = ["--steps", "2", "--seed", seed, *SIZES.split()]
        train.main([str(text), "--out", str(tmp_path / seed), *options])
    assert weights(tmp_path / "0") != weights(tmp_path / "1")


def test_no_text_is_refused(train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train.main([str(tmp_path), "--out", str(tmp_path / "m")])
    assert "train.txt" in capsys.readouterr().err
