"""The packed modules on their own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sprue.runtime.linear import PackedEmbedding, PackedLinear, TiedLinear
from sprue.weights import factors, packed
from sprue.weights.grids import integer

OUT, IN = 12, 20


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _packed() -> packed.Packed:
    grid = integer.round_to_nearest(_random(OUT, IN), 3, 8, False)
    stored = factors.attach(*grid, _random(OUT, 2, seed=1), _random(2, IN, seed=2), 4)
    return packed.Packed((OUT, IN), *stored, 0.0)


def _filled(module: Any, stored: packed.Packed) -> Any:
    missing, unexpected = module.load_state_dict(stored.tensors, strict=False)
    assert not unexpected
    assert set(missing) <= {"bias"}
    return module


def test_a_linear_multiplies_with_what_is_stored() -> None:
    stored = _packed()
    module = _filled(PackedLinear(packed.layout(stored), bias=True), stored)
    with torch.no_grad():
        module.bias.copy_(_random(OUT, seed=3))
    x = _random(2, 5, IN, seed=4)
    expected = nn.functional.linear(x, module.dense(), module.bias)
    torch.testing.assert_close(module(x), expected)
    assert module(x.to(torch.bfloat16)).dtype == torch.bfloat16
    assert (module.in_features, module.out_features) == (IN, OUT)
    assert "in=20, out=12, grid=int, rank=2" in repr(module)


def test_an_embedding_looks_up_what_is_stored() -> None:
    stored = _packed()
    module = _filled(PackedEmbedding(packed.layout(stored), dtype=torch.bfloat16), stored)
    ids = torch.tensor([[0, 11, 3], [3, 3, 3]])
    assert module(ids).dtype == torch.bfloat16
    torch.testing.assert_close(module.float()(ids), module.dense()[ids])


def test_construction_without_memory() -> None:
    stored = _packed()
    layout = packed.layout(stored)
    with torch.device("meta"):
        modules = [PackedLinear(layout, bias=True), PackedEmbedding(layout)]
    for module in modules:
        assert {t.device.type for t in module.state_dict().values()} == {"meta"}
        module.load_state_dict({"bias": torch.zeros(OUT), **stored.tensors}, False, assign=True)
        assert {t.device.type for t in module.state_dict().values()} == {"cpu"}
    assert torch.equal(modules[0].dense(), packed.dense(stored.meta, stored.tensors))


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_moving_never_casts_what_is_stored(cast: str) -> None:
    stored = _packed()
    linear = _filled(PackedLinear(packed.layout(stored), bias=True), stored)
    embedding = _filled(PackedEmbedding(packed.layout(stored)), stored)
    for module in (linear, embedding):
        dtype = getattr(getattr(module, cast)(), "weight").dtype  # noqa: B009
        assert dtype == getattr(torch, {"half": "float16", "double": "float64"}.get(cast, cast))
        for name, tensor in stored.tensors.items():
            assert module.tensors[name].dtype == tensor.dtype
            assert torch.equal(module.tensors[name], tensor)
    assert linear.bias.dtype == embedding(torch.tensor([0])).dtype == dtype


def test_state_dict_round_trip() -> None:
    stored = _packed()
    module = _filled(PackedLinear(packed.layout(stored)), stored)
    state = module.state_dict()
    assert set(state) == set(stored.tensors)
    again = PackedLinear(packed.layout(stored))
    again.load_state_dict(state)
    assert torch.equal(again.dense(), module.dense())


def test_the_weight_tells_its_shape_but_cannot_be_used() -> None:
    module = PackedLinear(packed.layout(_packed()))
    assert module.weight.shape == (OUT, IN)
    assert module.weight.dtype == torch.float32
    assert module.weight.device.type == "meta"
    with pytest.raises(AttributeError, match="no attribute 'wieght'"):
        _ = module.wieght


class _Scaled(nn.Embedding):
    def __init__(self, count: int, width: int) -> None:
        super().__init__(count, width, padding_idx=1)
        self.register_buffer("factor", torch.tensor(3.0), persistent=False)
        self.offset = 2

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids + self.offset) * self.factor.to(self.weight.dtype)


def test_a_class_that_derives_from_embedding_keeps_what_it_adds() -> None:
    stored, old = _packed(), _Scaled(OUT, IN)
    module = _filled(PackedEmbedding.like(old, packed.layout(stored)), stored)
    ids = torch.tensor([0, 9])
    torch.testing.assert_close(module(ids), 3 * module.dense()[ids + 2])
    assert isinstance(module, _Scaled)
    assert isinstance(module, PackedEmbedding)
    assert set(module.state_dict()) == set(stored.tensors)
    assert not list(module.parameters())
    assert old.weight.shape == (OUT, IN)
    assert module.to(torch.bfloat16)(ids).dtype == torch.bfloat16


def test_a_tied_head_owns_nothing_and_follows_its_embedding() -> None:
    stored = _packed()
    holder = nn.Module()
    holder.embedding = _filled(PackedEmbedding(packed.layout(stored)), stored)
    holder.head = TiedLinear(holder.embedding, nn.Parameter(_random(OUT, seed=5)))
    assert set(holder.state_dict()) == {*(f"embedding.{n}" for n in stored.tensors), "head.bias"}
    x = _random(3, IN, seed=6)
    expected = nn.functional.linear(x, holder.embedding.dense(), holder.head.bias)
    torch.testing.assert_close(holder.head(x), expected)
    assert holder.head.weight.shape == (OUT, IN)
    copied = copy.deepcopy(holder)
    copied.embedding.codes.zero_()
    assert not torch.equal(copied.head(x), holder.head(x))
    torch.testing.assert_close(holder.head(x), expected)


def test_adapters_can_be_trained_around_a_packed_linear() -> None:
    stored = _packed()
    module = _filled(PackedLinear(packed.layout(stored)), stored)
    x = _random(2, IN).requires_grad_()
    module(x).sum().backward()
    torch.testing.assert_close(x.grad, module.dense().sum(0).expand(2, -1))
