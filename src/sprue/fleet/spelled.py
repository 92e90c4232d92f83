"""Which vocabulary a capability needs: the smallest that hardly costs anything.

Text whose tokens do not stay is spelled in smaller ones. What that costs is measured on the full
model: how likely it finds text of the capability in fewer tokens, beside in all of them.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprue.data.text import Document
from sprue.errors import InputError
from sprue.fleet.scoring import needs_of
from sprue.fleet.specialist import Talker, costs
from sprue.models import vocabulary
from sprue.proof import load

_OUTSIDE = 0.03, 0.01, 0.003, 0.001, 0.0  # tried: shares of the text spelled in smaller tokens
_SPELLED = 0.1  # of what may be lost, that smaller tokens may cost
_LEAST_GONE = 0.05  # share of the vocabulary that is worth a tokenizer of its own
_NEEDS = 64  # that it is measured on


@dataclass(frozen=True)
class Spelled:
    """What was chosen.

    Attributes:
        vocabulary: None: all of it stays.
        why: all of it stays; None: not all does.
        outside: share of the text that is spelled in smaller tokens.
    """

    vocabulary: vocabulary.Vocabulary | None
    why: str | None = None
    outside: float = 0.0


@dataclass(frozen=True)
class Spelling:
    """A full model and text of a capability.

    Attributes:
        full: causal, of `transformers`, in eval mode.
        tokenizer: its own.
        folder: of the full model.
        scratch: a folder to write tokenizers to.
        keep: share of the full model's quality that has to be kept in the end.
        context: tokens of a passage.
        seed: of the passages that are looked at.
    """

    full: Any
    tokenizer: Any
    folder: Path
    scratch: Path
    keep: float
    context: int
    seed: int = 0

    def chosen(
        self, learn: Sequence[Document], watch: Sequence[Document], asked: int | None
    ) -> Spelled:
        """The vocabulary for a text.

        Args:
            learn: the text.
            watch: other text of the capability, to measure on.
            asked: tokens that stay; None: as few as hardly cost anything; 0: all.

        Raises:
            InputError: so many cannot stay.
        """
        if asked == 0:
            return Spelled(None, "it was asked for")
        counts = vocabulary.counted(self.tokenizer, [document.text for document in learn])
        told = json.loads(self.tokenizer.backend_tokenizer.to_str())
        always = vocabulary.named(self.tokenizer, self.full.config, self.full.generation_config)
        for count in [asked] if asked else _counts(counts):
            try:
                found = vocabulary.smaller(told, counts, min(count, len(counts)), always)
            except InputError as error:
                if asked:
                    raise
                return Spelled(None, str(error))
            if asked or self._cheap(found, watch):
                return Spelled(found, None, vocabulary.outside(counts, found.kept))
        why = "words of the capability would have to be spelled, which costs too much"
        return Spelled(None, why)

    def _cheap(self, found: vocabulary.Vocabulary, watch: Sequence[Document]) -> bool:
        """Whether the full model finds the text hardly less likely in fewer tokens."""
        size = self.full.config.get_text_config().vocab_size
        if len(found.kept) > (1 - _LEAST_GONE) * size:
            return False
        shutil.rmtree(self.scratch, ignore_errors=True)
        vocabulary.saved(found, self.folder, self.scratch)
        small = vocabulary.cut(self.full, found)
        talkers = (
            Talker(self.full, self.tokenizer, self.context),
            Talker(small, load.tokenizer(self.scratch, self.scratch), 2 * self.context),
        )
        prompt, answer = self.context // 4, self.context // 2
        needs = needs_of(self.tokenizer, watch, prompt, answer, _NEEDS, self.seed)
        try:
            a, b = (costs(talker, needs).sum() for talker in talkers)
        except InputError:  # spelled out, an answer is longer than what the model reads
            return False
        return bool(b - a <= -_SPELLED * math.log(self.keep) * answer * len(needs))


def _counts(counts: Tensor) -> list[int]:
    """So many of the most frequent tokens that ever less of the text needs any other, ascending."""
    shares = counts.sort(descending=True).values.double().cumsum(0) / max(1, int(counts.sum()))
    wanted = torch.tensor([1 - outside for outside in _OUTSIDE], dtype=torch.float64) - 1e-12
    return [int(n) + 1 for n in torch.searchsorted(shares, wanted)]
