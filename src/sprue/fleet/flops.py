"""Floating-point operations of a causal language model, from the shapes of its matrices.

A product with a matrix takes two for each weight and token; attention two for each key that a query
meets, and as many for each value. Norms, activations and softmax are left out: they are linear in
the width, and below a hundredth of the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sprue.fleet.adapters import Adapted
from sprue.models.families import find


@dataclass(frozen=True)
class Flops:
    """What a model computes.

    Attributes:
        body: for a token in all linears of the blocks.
        head: for the logits of a token.
        attention: for every pair of a token and one that it attends to, itself included.
    """

    body: int
    head: int
    attention: int

    def reads(self, tokens: int, before: int = 0) -> int:
        """Of so many tokens, after as many that were read before."""
        pairs = tokens * before + tokens * (tokens + 1) // 2
        return tokens * self.body + pairs * self.attention

    def answer(self, prompt: int, tokens: int) -> int:
        """Of an answer: the prompt is read, then token after token but the last."""
        return self.reads(prompt + tokens - 1) + tokens * self.head


def flops_of(model: Any) -> Flops:
    """Of a model of `transformers`, packed or not."""
    family, config = find(model.config), model.config.get_text_config()
    body = sum(
        _weights(module)
        for name, module in model.named_modules()
        if name.startswith(f"{family.blocks}.")
    )
    embedding = model.get_submodule(family.embedding)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Flops(
        2 * body,
        2 * int(embedding.num_embeddings * embedding.embedding_dim),
        4 * heads * width * config.num_hidden_layers,
    )


def _weights(module: Any) -> int:
    """Of the matrix of a module that multiplies with one, or of its low-rank part."""
    if isinstance(module, Adapted):
        return int(module.A.numel() + module.B.numel())
    weight = getattr(module, "weight", None)
    if not callable(getattr(module, "forward", None)) or weight is None or weight.dim() != 2:
        return 0
    return int(weight.shape[0] * weight.shape[1])
