"""The survey: what each matrix means to the model, on several families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sprue import models
from sprue.errors import InputError
from sprue.models import Stream
from sprue.plan.survey import Survey, survey

Folder = Callable[..., Path]


def test_every_matrix_has_an_outlook_and_importances(kind: str, surveyed: Any) -> None:
    on = surveyed(kind)
    shapes = {**on.parts.outer, **on.parts.linears}
    assert set(on.survey.outlooks) == set(shapes)
    for name, shape in shapes.items():
        assert on.survey.outlooks[name].shape == shape
        importance = on.survey.importance[name]
        assert importance.shape == (shape[0],)
        assert importance.min() >= 0
        assert importance.max() > 0
    assert set(on.survey.moments) == set(on.parts.outer)


def test_more_bits_do_less_damage(kind: str, surveyed: Any) -> None:
    on = surveyed(kind)
    for name in on.survey.outlooks:
        damages = [on.survey.damage(name, bits) for bits in np.arange(1.3, 6.5, 0.2)]
        assert np.isfinite(damages).all()
        assert min(damages) > 0
        assert damages == sorted(damages, reverse=True)
        assert on.survey.power(name) > damages[-1]


def test_moments_are_those_of_the_original(surveyed: Any, windows: Tensor) -> None:
    """Of the head's input, and for the embedding's rows, which are only looked up, none."""
    from transformers import AutoModelForCausalLM

    on = surveyed("gpt_neox")
    model = AutoModelForCausalLM.from_pretrained(on.source.path, dtype=torch.float32).eval()
    seen = []
    model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].reshape(-1, 32)))
    with torch.no_grad():
        model(windows, use_cache=False)
    x = torch.cat(seen)
    torch.testing.assert_close(on.survey.moments["lm_head"], x.T @ x / len(x), atol=1e-4, rtol=1e-4)
    assert torch.equal(on.survey.moments["gpt_neox.embed_in"], torch.eye(32))


def test_a_tied_matrix_answers_for_both_uses(surveyed: Any, windows: Tensor) -> None:
    on = surveyed("llama")
    assert list(on.survey.moments) == ["model.embed_tokens"]
    used = torch.zeros(on.parts.outer["model.embed_tokens"][0], dtype=torch.bool)
    used[windows.flatten()] = True
    importance = on.survey.importance["model.embed_tokens"]
    assert (importance > 0).all()  # every row answers as the head
    assert importance[used].mean() > importance[~used].mean()  # and those that occur are looked up


def test_rows_that_do_not_occur_do_not_count(surveyed: Any, windows: Tensor) -> None:
    on = surveyed("gpt_neox")
    importance = on.survey.importance["gpt_neox.embed_in"]
    absent = torch.ones(len(importance), dtype=torch.bool)
    absent[windows.flatten()] = False
    assert (importance[absent] == 0).all()
    assert (importance[~absent] > 0).all()


def test_a_seed_gives_one_survey_and_text_another(speaking: Folder, windows: Tensor) -> None:
    source = models.open(speaking("llama", num_hidden_layers=2))

    def damages(ids: Tensor, seed: int) -> list[float]:
        found: Survey = survey(Stream(source, ids), seed=seed)
        return [found.damage(name, 3.0) for name in found.outlooks]

    first = damages(windows, 0)
    assert damages(windows, 0) == first
    assert damages(windows, 1) != first
    assert damages(windows.flip(1), 0) != first


def test_progress_counts_three_times_the_blocks(speaking: Folder, windows: Tensor) -> None:
    source, seen = models.open(speaking("gpt2", num_hidden_layers=2)), list[int]()
    survey(Stream(source, windows), seed=0, progress=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_activations_beyond_all_numbers_are_refused(
    speaking: Folder, windows: Tensor, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    for file in speaking("llama", num_hidden_layers=2).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] *= 1e30
    weights["model.layers.0.mlp.down_proj.weight"] *= 1e30
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"q_proj: .* not finite .* damaged"):
        survey(Stream(models.open(tmp_path), windows), seed=0)
