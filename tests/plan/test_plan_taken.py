"""What a choice is said to take is what packing it takes."""

from __future__ import annotations

import pytest
import torch

from sprue.plan.taken import taken
from sprue.weights import packed
from sprue.weights.choice import Choice
from sprue.weights.decompose import decompose

CHOICES = {
    "rtn": Choice("int", 3, feedback=False),
    "gptq, zeros": Choice("int", 4, symmetric=False, group_size=32),
    "2:4": Choice("raw", pattern="2:4"),
    "half": Choice("raw", pattern="unstructured", sparsity=0.5),
    "blocks": Choice("raw", pattern="4x4", sparsity=0.5),
    "int 4, 2:4, rank": Choice("int", 4, pattern="2:4", rank=4, factor_bits=4),
    "svd": Choice("none", rank=8),
    "raw": Choice("raw"),
}


@pytest.mark.parametrize("name", CHOICES)
def test_bits_and_flops_are_those_of_the_packed_matrix(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(64, 96, generator=generator).to(torch.bfloat16)
    X = torch.randn(400, 96, generator=generator)
    made = decompose(W, X.T @ X / 400, CHOICES[name])
    told = taken(CHOICES[name], (64, 96), 16)
    assert told.bits == pytest.approx(made.bits, abs=8 * len(made.tensors))
    assert told.flops == packed.flops(made.meta)


@pytest.mark.parametrize("pattern", [None, "2:4"])
def test_a_trellis_takes_at_most_what_it_states(pattern: str | None) -> None:
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(128, 96, generator=generator)
    choice = Choice("trellis", 3.0, pattern=pattern, rank=4, factor_bits=4, state_bits=9)
    made = decompose(W, torch.eye(96), choice)
    told = taken(choice, (128, 96), 16)
    assert made.bits <= told.bits == 3.0 * 128 * 96
    assert told.flops == packed.flops(made.meta)
