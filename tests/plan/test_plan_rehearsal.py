"""The dry run: it touches the heaviest matrix, and fails where the walk would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sprue import models
from sprue.errors import InputError
from sprue.models import Stream
from sprue.plan import rehearsal
from sprue.plan.rehearsal import rehearse

HEAVIEST = {
    "llama": "model.layers.0.mlp.down_proj",
    "gpt2": "transformer.h.0.mlp.c_proj",
    "phi": "model.layers.0.mlp.fc2",
}


class Packed:
    """Records what is packed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[tuple[tuple[int, ...], Any]] = []
        self._real = rehearsal.decompose
        monkeypatch.setattr(rehearsal, "decompose", self)

    def __call__(self, W: Tensor, H: Tensor, choice: Any, *more: Any, **options: Any) -> Any:
        self.seen.append((tuple(W.shape), choice))
        assert H.shape == (W.shape[1], W.shape[1])
        return self._real(W, H, choice, *more, **options)


@pytest.mark.parametrize("trellis", [True, False])
@pytest.mark.parametrize("name", HEAVIEST)
def test_it_packs_the_widest_matrix_once(
    name: str,
    trellis: bool,
    speaking: Callable[..., Path],
    windows: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = Packed(monkeypatch)
    source = models.open(speaking(name, num_hidden_layers=2))
    rehearse(Stream(source, windows[:1]), 0, trellis)
    ((shape, choice),) = packed.seen
    a, b = source.shape(f"{HEAVIEST[name]}.weight")
    assert shape == ((b, a) if source.family.transposed else (a, b))
    assert choice.grid == ("trellis" if trellis else "int")


def test_what_cannot_be_packed_is_named(
    speaking: Callable[..., Path], windows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("the weights hold NaN or infinity")

    monkeypatch.setattr(rehearsal, "decompose", fail)
    source = models.open(speaking("llama", num_hidden_layers=2))
    with pytest.raises(InputError, match=r"layers\.0\.mlp\.down_proj: the weights hold NaN"):
        rehearse(Stream(source, windows[:1]), 0, True)


def test_the_random_generator_is_left_alone(speaking: Callable[..., Path], windows: Tensor) -> None:
    before = torch.get_rng_state()
    source = models.open(speaking("llama", num_hidden_layers=2))
    rehearse(Stream(source, windows[:1]), 0, True)
    assert torch.equal(torch.get_rng_state(), before)
