"""Text that a model writes itself, to teach a smaller one by where true text is scarce.

(Sequence-level distillation by samples: Kim and Rush 2016, arXiv:1606.07947, section 3.2, with the
teacher's distributions at every token kept, as on true text.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sprue.plan.likeliest import Likeliest


@torch.inference_mode()
def written(
    model: Any,
    prompts: Tensor,
    tokens: int,
    seed: int = 0,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Likeliest]:
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
    rows, said, cache = [new], list[Likeliest](), None
    for _ in range(tokens - prompts.shape[1]):
        out = model(new if allowed is None else allowed[new], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits = out.logits.float() if allowed is None else out.logits[..., allowed].float()
        said.append(Likeliest.of(logits))
        new = torch.multinomial(logits[:, -1].softmax(-1), 1, generator=generator)
        rows.append(new)
    return torch.cat(rows, 1).cpu(), Likeliest.joined(said, 1)
