"""A model of a fleet, ready to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sprue.fleet.adapters import WEIGHTS, base_of, is_adapter, load_over, shared_base
from sprue.fleet.flops import Flops, flops_of
from sprue.fleet.scoring import Need, Tokens, encoded
from sprue.proof import load
from sprue.runtime.linear import PackedEmbedding, PackedLinear, TiedLinear

_UNKNOWN_CONTEXT = 1 << 30


@dataclass(frozen=True)
class Served:
    """A model with its tokenizer, and what it costs.

    Attributes:
        name: of the specialist, or "full".
        model: causal, of `transformers`, in eval mode, its weights dense.
        tokenizer: of `transformers`.
        flops: what it computes.
        context: tokens that it reads at once, at most.
        nbytes: of its tensors as they are stored.
    """

    name: str
    model: Any
    tokenizer: Any
    flops: Flops
    context: int
    nbytes: int

    @classmethod
    def load(cls, name: str, folder: Path, device: str = "cpu") -> Served:
        """From a folder, whether packed or not.

        Raises:
            ArtifactError, InputError: what cannot be loaded.
        """
        if is_adapter(folder):
            return cls._over_a_base(name, folder, device)
        model = load.model(folder, device)
        flops = flops_of(model)
        unpack(model)
        config = model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or _UNKNOWN_CONTEXT
        nbytes = load.nbytes(load.stored(folder))
        return cls(name, model, load.tokenizer(folder, folder), flops, context, nbytes)

    def tokens(self, need: Need) -> Tokens:
        """A need as this model reads it."""
        return encoded(self.tokenizer, need, self.context)

    @classmethod
    def _over_a_base(cls, name: str, folder: Path, device: str) -> Served:
        """The base is in memory once, whatever is over it, and counts with none of them."""
        base = base_of(folder)
        model = load_over(folder, shared_base(base, device))
        config = model.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None) or _UNKNOWN_CONTEXT
        nbytes = (folder / WEIGHTS).stat().st_size
        return cls(name, model, load.tokenizer(base, base), flops_of(model), context, nbytes)


@torch.no_grad()
def unpack(model: Any) -> None:
    """Dense weights in the place of packed ones: more memory, and less time for every token."""
    dtype = model.dtype if model.dtype.is_floating_point else torch.float32
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            weight = module.dense()
        elif isinstance(module, TiedLinear):
            matrix = model.get_input_embeddings()
            weight = matrix.dense() if isinstance(matrix, PackedEmbedding) else matrix.weight
        else:
            continue
        model.set_submodule(name, _linear(weight.detach().to(dtype), module.bias).to(model.device))


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    """With these values; nothing random is drawn."""
    out, width = weight.shape
    with torch.device("meta"):
        found = nn.Linear(width, out, bias=bias is not None)
    found.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        found.bias = nn.Parameter(bias.detach().to(weight.dtype), requires_grad=False)
    return found
