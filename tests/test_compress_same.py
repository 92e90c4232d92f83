"""The same command gives the same bytes; another seed or text gives others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sprue.compress import compress

Folder = Callable[..., Path]
QUICK: dict[str, Any] = {"windows": 8, "context": 32, "progress": False}


@pytest.fixture(scope="module")
def made(
    speaking: Folder, corpus: Folder, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """name, options -> a result; `text` picks the calibration, `again` makes another one."""
    kept: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("made")

    def make(name: str, text: int = 0, again: int = 0, **options: Any) -> Path:
        key = f"{name} {text} {again} {sorted(options.items())}"
        if key not in kept:
            kept[key] = folder / str(len(kept)) / "out"
            source = speaking(name, num_hidden_layers=2)
            compress(source, kept[key], calibrate=[corpus(text)], **QUICK | options)
        return kept[key]

    return make


def content(folder: Path) -> dict[str, bytes]:
    """File name -> bytes."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def tensors(folder: Path) -> dict[str, bytes]:
    """The shards alone."""
    return {name: found for name, found in content(folder).items() if name.endswith("tensors")}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_same_command_gives_the_same_files(name: str, made: Callable[..., Path]) -> None:
    first, second = (content(made(name, again=i, bits=3.0)) for i in range(2))
    assert set(first) == set(second)
    assert len(first) > 6
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("preset", ["rtn", "gptq", "svd", "caldera"])
def test_so_do_presets(preset: str, made: Callable[..., Path]) -> None:
    bits = 5.0
    first, second = (content(made("llama", again=i, preset=preset, bits=bits)) for i in range(2))
    assert first == second


def test_threads_change_nothing(made: Callable[..., Path]) -> None:
    one = content(made("llama", bits=3.0))
    torch.set_num_threads(2)
    try:
        two = content(made("llama", bits=3.0, again=9))
    finally:
        torch.set_num_threads(1)
    assert one == two


def test_a_size_gives_the_same_files_too(made: Callable[..., Path]) -> None:
    first, second = (content(made("llama", again=i, size="15%")) for i in range(2))
    assert first == second


def test_another_seed_gives_others(made: Callable[..., Path]) -> None:
    first, other = (made("llama", bits=3.0, **more) for more in ({}, {"seed": 1}))
    assert content(made("llama", bits=3.0, seed=0)) == content(first)  # what it is without one
    changed = {name for name in tensors(first) if tensors(first)[name] != tensors(other)[name]}
    assert {"model-00000.safetensors", "model-00001.safetensors"} <= changed


@pytest.mark.parametrize("options", [{"bits": 3.0}, {"preset": "gptq", "bits": 4.5}])
def test_another_text_gives_others(options: dict[str, Any], made: Callable[..., Path]) -> None:
    first, other = (tensors(made("llama", text=text, **options)) for text in (0, 1))
    changed = {name for name in first if first[name] != other[name]}
    assert {"model-00000.safetensors", "model-00001.safetensors"} <= changed


def test_rounding_to_nearest_needs_no_text(made: Callable[..., Path]) -> None:
    first, other = (tensors(made("llama", text=t, preset="rtn", bits=5.0)) for t in (0, 1))
    assert first == other


@pytest.mark.parametrize(
    "options",
    [{"bits": 2.7}, {"size": "14%", "seed": 3}, {"preset": "caldera", "bits": 5.0, "seed": 2}],
)
def test_a_recipe_run_again_gives_the_same_tensors(
    options: dict[str, Any], made: Callable[..., Path]
) -> None:
    first = made("llama", **options)
    again = made("llama", recipe=first / "recipe.yaml")
    assert content(again) == content(first)


def test_a_recipe_takes_another_seed(made: Callable[..., Path]) -> None:
    first = made("llama", bits=2.7)
    other = made("llama", recipe=first / "recipe.yaml", seed=4)
    assert json.loads((other / "sprue.json").read_text())["seed"] == 4
    assert tensors(other) != tensors(first)


def test_the_global_generators_are_left_alone(made: Callable[..., Path]) -> None:
    before = torch.random.get_rng_state()
    made("gpt2", bits=3.0, again=5)
    assert torch.equal(torch.random.get_rng_state(), before)
