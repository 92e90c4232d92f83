"""The exact mode: a specialist drafts, the full model checks several tokens in one pass.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192, algorithm 1): a drafted token x stays
with probability min(1, p(x) / q(x)), p the full model's distribution and q the specialist's; the
first that does not is drawn anew from what p has more than q. What comes out is distributed as the
full model's own; without sampling it is the full model's own, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sprue.errors import InputError

_FIRST, _MOST = 4, 16  # tokens drafted at once


class Reader(Protocol):
    """A model with what it has read."""

    def read(self, ids: Sequence[int]) -> Tensor:
        """Logits [new, vocabulary] after each token of `ids` that it has not read yet.

        `ids` is all of the context; where it differs from what was read, that is forgotten.
        """

    def forget(self) -> None:
        """Have read nothing."""


@dataclass
class Cached:
    """A causal language model of `transformers` that keeps keys and values.

    Attributes:
        model: in eval mode.
        tokens: that it has computed, those that were forgotten again included.
    """

    model: Any
    tokens: int = 0

    def __post_init__(self) -> None:
        self._ids: list[int] = []
        self._cache: Any = None

    @torch.inference_mode()
    def read(self, ids: Sequence[int]) -> Tensor:
        """As `Reader` says."""
        same = _shared(self._ids, ids)
        same = min(same, len(ids) - 1)  # something new is read every time
        if self._cache is not None and same < len(self._ids):
            self._cache.crop(same - len(self._ids))
        new = list(ids[same:])
        out = self.model(
            torch.tensor([new], device=self.model.device),
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache, self._ids = out.past_key_values, list(ids)
        self.tokens += len(new)
        found: Tensor = out.logits[0].float().cpu()
        return found

    def forget(self) -> None:
        """As `Reader` says."""
        self._ids, self._cache = [], None


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


@dataclass(frozen=True)
class Drafted:
    """What came of it.

    Attributes:
        ids: the new tokens; an end token ends them and is not among them.
        drafted: tokens that the specialist proposed.
        accepted: of those, that stayed.
        passes: of the full model.
    """

    ids: tuple[int, ...]
    drafted: int
    accepted: int
    passes: int


def continued(
    full: Reader,
    specialist: Reader,
    ids: Sequence[int],
    count: int,
    *,
    stop: frozenset[int] = frozenset(),
    temperature: float = 0.0,
    seed: int = 0,
) -> Drafted:
    """Continue a text as the full model would.

    Args:
        full, specialist: of one vocabulary.
        ids: the text, at least one token.
        count: of new tokens, at most.
        stop: tokens that end it.
        temperature: 0 takes the likeliest token.
        seed: of the sampling; the global random state is not touched.

    Raises:
        InputError: an empty text, a count below 1, or vocabularies that differ.
    """
    if not ids or count < 1 or not temperature >= 0:
        raise InputError(
            "expected at least one token to continue, one to add and a temperature of 0 or more, "
            f"got {len(ids)}, {count} and {temperature}"
        )
    work = _Work(full, specialist, temperature, torch.Generator().manual_seed(seed))
    text, new, ahead = list(ids), list[int](), 0  # the text has to be read in any case
    while len(new) < count:
        asked = min(ahead, count - len(new) - 1)
        found, kept = work.round(text, asked)
        if ahead == 0:
            ahead = _FIRST
        elif asked:
            ahead = min(_MOST, ahead + 2) if kept == asked else kept + 1
        end = next((i for i, token in enumerate(found) if token in stop), None)
        new += found[:end]
        text += found
        if end is not None:
            break
    return Drafted(tuple(new), work.drafted, work.accepted, work.passes)


@dataclass
class _Work:
    full: Reader
    specialist: Reader
    temperature: float
    generator: torch.Generator
    drafted: int = 0
    accepted: int = 0
    passes: int = 0
    _width: int = 0  # of the vocabulary

    def round(self, text: Sequence[int], ahead: int) -> tuple[list[int], int]:
        """Tokens that the full model stands behind, at least one; how many of them were drafted."""
        proposed, q = self._draft(text, ahead)
        p = self._spread(self.full.read([*text, *proposed])[-len(proposed) - 1 :])
        self._width = p.shape[1]
        self.passes += 1
        self.drafted += len(proposed)
        for i, token in enumerate(proposed):
            if not self._stays(float(p[i, token]), float(q[i][token])):
                return [*proposed[:i], self._drawn((p[i] - q[i]).clamp(min=0), p[i])], i
            self.accepted += 1
        return [*proposed, self._drawn(p[-1], p[-1])], len(proposed)

    def _draft(self, text: Sequence[int], ahead: int) -> tuple[list[int], list[Tensor]]:
        proposed: list[int] = []
        spreads: list[Tensor] = []
        for _ in range(ahead):
            spread = self._spread(self.specialist.read([*text, *proposed])[-1:])[0]
            if len(spread) != self._width:
                raise InputError(
                    f"the full model has {self._width} tokens and the specialist {len(spread)}: "
                    "drafts need one vocabulary"
                )
            spreads.append(spread)
            proposed.append(self._drawn(spread, spread))
        return proposed, spreads

    def _spread(self, logits: Tensor) -> Tensor:
        """Probabilities [rows, vocabulary], float64; without sampling all on the likeliest."""
        if self.temperature == 0:
            best = logits.argmax(-1, keepdim=True)
            return torch.zeros(logits.shape, dtype=torch.float64).scatter_(-1, best, 1.0)
        return torch.softmax(logits.double() / self.temperature, -1)

    def _stays(self, p: float, q: float) -> bool:
        if self.temperature == 0:
            return p > 0
        return float(torch.rand((), generator=self.generator, dtype=torch.float64)) * q < p

    def _drawn(self, weights: Tensor, otherwise: Tensor) -> int:
        """By weights; where rounding has left none, by the other ones."""
        some = weights if float(weights.sum()) > 0 else otherwise
        if self.temperature == 0:
            return int(some.argmax())
        return int(torch.multinomial(some, 1, generator=self.generator))
