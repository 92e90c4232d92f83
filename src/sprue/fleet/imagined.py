"""Text of a capability that the full model writes itself, for its specialist to learn from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sprue.plan.distill import Schedule
from sprue.plan.sketch import DRAWN, KEPT, Sketch
from sprue.plan.written import written

_WRITING = 0.25  # of the time of training, that the full model may write
_MORE = 8  # times the true text, at most
_FOR_A_STEP = 2  # texts, at most, where the steps are counted
_MOST = 3 << 28  # bytes that they may take, with what is said of them
_TEXTS = 128  # that it writes at once
_TOKEN = 8 + (4 + 2) * (KEPT + DRAWN)  # bytes of a token: its id, classes and logs
_PROMPT = 8  # of which a text's beginning is one part


@dataclass(frozen=True)
class Imagined:
    """Texts, and what the full model says of them.

    Attributes:
        ids: int64 [texts, tokens], of the student's tokens.
        said: of each token but the first, [texts, tokens - 1].
    """

    ids: Tensor
    said: Sketch

    @classmethod
    def load(cls, file: Path) -> Imagined:
        """As `save` wrote it."""
        found = load_file(file)
        return cls(found["ids"], Sketch(found["classes"], found["logs"], int(found["drawn"])))

    def save(self, file: Path) -> None:
        """As safetensors."""
        said = self.said
        tensors = {"ids": self.ids, "classes": said.classes, "logs": said.logs}
        tensors["drawn"] = torch.tensor(said.drawn)
        save_file(tensors, file)


def imagined(
    full: Any,
    stream: Tensor,
    tokens: int,
    schedule: Schedule,
    kept: Tensor | None = None,
    seed: int = 0,
    progress: Callable[[float], object] = lambda share: None,
) -> Imagined:
    """Several times as much as there is true text, or what time and memory allow.

    Args:
        full: causal, of `transformers`, in eval mode.
        stream: tokens of the student that texts begin with parts of, int64 [tokens].
        tokens: of a text.
        schedule: of the training.
        kept: ids of the full model that the student has too, int64, ascending; None: all.
        seed: of what is written.
        progress: called with the share that was written.
    """
    prompts = _beginnings(stream, tokens, schedule, seed)
    allowed = _WRITING * schedule.seconds if schedule.seconds is not None else math.inf
    begin, texts, said = time.monotonic(), list[Tensor](), list[Sketch]()
    for i, some in enumerate(torch.split(prompts, _TEXTS)):
        if time.monotonic() - begin > allowed:
            break
        ids, one = written(full, some, tokens, seed + i, kept)
        texts.append(ids)
        said.append(one)
        progress(len(some) / len(prompts))
    return Imagined(torch.cat(texts), Sketch.joined(said))


def _beginnings(stream: Tensor, tokens: int, schedule: Schedule, seed: int) -> Tensor:
    """From all over a text, in no order, int64 [texts, tokens]."""
    texts = min(_MORE * (len(stream) // tokens), _MOST // (tokens * _TOKEN))
    if schedule.steps is not None:
        texts = min(texts, _FOR_A_STEP * schedule.steps)
    size = max(1, tokens // _PROMPT)
    places = torch.linspace(0, len(stream) - size, max(1, texts)).long()
    prompts = torch.stack([stream[i : i + size] for i in places])
    return prompts[torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed))]
