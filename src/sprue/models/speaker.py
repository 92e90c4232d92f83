"""A causal language model of `transformers` as a network from tokens to logits."""

from __future__ import annotations

from torch import Tensor, nn


class Speaker(nn.Module):
    """A causal language model as a network: ids [n, tokens] -> logits [n, tokens, vocabulary].

    Its layers have the names that they have in the model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._whole = [model]  # in a list, so that it is no child itself
        for name, child in model.named_children():
            self.add_module(name, child)

    def forward(self, ids: Tensor) -> Tensor:
        """Of every next token."""
        logits: Tensor = self._whole[0](input_ids=ids, use_cache=False).logits
        return logits
