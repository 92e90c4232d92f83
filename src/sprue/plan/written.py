"""Text that a model writes itself, to teach a smaller one by where true text is scarce.

(Sequence-level distillation by samples: Kim and Rush 2016, arXiv:1606.07947, section 3.2, with the
teacher's distributions at every token kept, as on true text.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.inference_mode()
def written(
    model: Any,
    prompts: Tensor,
    tokens: int,
    seed: int = 0,
    allowed: Tensor | None = None,
) -> Tensor:
    """Continuations, drawn at temperature 1.

    Args:
        model: causal, of `transformers`, in eval mode.
        prompts: int64 [texts, prompt], what each begins with; all are written at once.
        tokens: of a text, its prompt included.
        seed: of what is drawn; the global random state is not touched.
        allowed: tokens that may be drawn, int64; None: all.

    Returns:
        int64 [texts, tokens].
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)
    rows, new, cache = [prompts], prompts, None
    for _ in range(tokens - prompts.shape[1]):
        out = model(new.to(model.device), past_key_values=cache, use_cache=True)
        cache, logits = out.past_key_values, out.logits[:, -1].float()
        if allowed is not None:
            logits = logits[:, allowed]
        new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
        new = new if allowed is None else allowed[new]
        rows.append(new.cpu())
    return torch.cat(rows, 1)
