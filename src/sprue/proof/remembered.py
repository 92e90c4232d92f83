"""The original's answers to the windows of a comparison, found once and asked for many times."""

from __future__ import annotations

import torch
from torch import Tensor

from sprue.models import Source, Stream

_RESIDENT = 64 << 20  # bytes of activations that stay in memory


class Remembered:
    """What the original's last block gives for every window; the head answers anew each time.

    Logits of all windows would be larger by the size of the vocabulary over that of the hidden
    state. Callable as `quality.compare` wants it.

    Args:
        source: the original.
        ids: all windows that will be asked for, int64 [windows, context].
        batch: windows in one forward.
    """

    def __init__(self, source: Source, ids: Tensor, batch: int) -> None:
        self._stream = Stream(source, ids, batch, resident=_RESIDENT)
        self._hidden = self._stream.embed()
        for i in range(self._stream.blocks):
            block = self._stream.load(i)
            self._stream.run(block, i, self._hidden, out=self._hidden)
        self._place = {_key(window): i for i, window in enumerate(ids)}

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        """Logits [windows, context, vocab] float32; KeyError for a window not given before."""
        places = torch.tensor([self._place[_key(window)] for window in ids])
        return self._stream.logits(self._hidden[places])


def _key(window: Tensor) -> bytes:
    return window.cpu().numpy().tobytes()
