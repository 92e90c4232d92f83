"""Text that a model writes itself, to teach a smaller one by where true text is scarce.

(Sequence-level distillation by samples: Kim and Rush 2016, arXiv:1606.07947, section 3.2, with the
teacher's distributions at every token kept, as on true text.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sprue.plan.sketch import Sketch, spread


@torch.inference_mode()
def written(
    model: Any,
    prompts: Tensor,
    tokens: int,
    seed: int = 0,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Sketch]:
    """Continuations, drawn at temperature 1, and what they were drawn from.

    Args:
        model: causal, of `transformers`, in eval mode.
        prompts: int64 [texts, prompt], what each begins with; all are written at once.
        tokens: of a text, its prompt included.
        seed: of what is drawn; the global random state is not touched.
        allowed: tokens that may be drawn, int64, ascending; None: all.

    Returns:
        Texts, int64 [texts, tokens], in places among those allowed; and what the model says of each
        token but the first, [texts, tokens - 1].
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)
    new = prompts.to(model.device)
    rows, said, cache = [new], list[Sketch](), None
    for _ in range(tokens - prompts.shape[1]):
        out = model(new if allowed is None else allowed[new], past_key_values=cache, use_cache=True)
        if cache is None:
            cache = out.past_key_values
            _make_room(cache, tokens)
        logits = out.logits.float() if allowed is None else out.logits[..., allowed].float()
        said.append(Sketch.of(logits, generator))
        new = spread(logits[:, -1].softmax(-1), 1, generator)
        rows.append(new)
    return torch.cat(rows, 1).cpu(), Sketch.joined(said, 1)


def _make_room(cache: Any, tokens: int) -> None:
    """The memory of a text is taken at once.

    A cache that is joined anew with every token is copied with every token, which takes most of the
    time. Layers that are more than that (of windows, of states) stay as they are.
    """
    for layer in getattr(cache, "layers", ()):
        if type(layer).__name__ == "DynamicLayer":
            layer.update = _Room(layer, tokens)


class _Room:
    """Takes the place of a layer's `update`."""

    def __init__(self, layer: Any, tokens: int) -> None:
        self._layer = layer
        self._whole = tuple(_longer(part, tokens) for part in (layer.keys, layer.values))

    def __call__(
        self, keys: Tensor, values: Tensor, *args: Any, **others: Any
    ) -> tuple[Tensor, Tensor]:
        begin = self._layer.keys.shape[-2]
        end = begin + keys.shape[-2]
        for whole, new in zip(self._whole, (keys, values), strict=True):
            whole[..., begin:end, :] = new
        self._layer.keys, self._layer.values = (whole[..., :end, :] for whole in self._whole)
        return self._layer.keys, self._layer.values


def _longer(part: Tensor, tokens: int) -> Tensor:
    """With room for so many tokens, the first of them as they are."""
    whole = part.new_empty((*part.shape[:-2], tokens, part.shape[-1]))
    whole[..., : part.shape[-2], :] = part
    return whole
