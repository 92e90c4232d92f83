"""The original's answers, found once, are those of the model itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sprue import models
from sprue.proof.remembered import Remembered


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "gpt2", "opt-narrow"])
def test_answers_are_those_of_the_model(
    name: str, folder: Callable[..., Path], ids: Tensor
) -> None:
    path = folder(name)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    found = Remembered(models.open(path), ids, 2)
    for some in (ids[3:], ids[:1], ids[[4, 0]]):  # in any order, as often as wanted
        with torch.no_grad():
            expected = model(some).logits
        torch.testing.assert_close(found(some), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(KeyError):
        found(ids.flip(1))
