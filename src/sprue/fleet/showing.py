"""What a specialist keeps of its capability, and what it has forgotten of everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sprue import data
from sprue.data.text import Document
from sprue.fleet.scoring import Need, needs_of
from sprue.fleet.specialist import Compared, Talker, compared

_PROVEN = 400  # passages that it is proven on, at most
_BESIDE = 60  # passages of each other text, at most


@dataclass(frozen=True)
class Shown:
    """What came of it.

    Attributes:
        own: full model and specialist on text of the capability.
        before: the same before it was quantized.
        forgotten: on other texts.
    """

    own: Compared
    before: Compared
    forgotten: tuple[Compared, ...]


@dataclass(frozen=True)
class Showing:
    """A specialist beside its full model.

    Attributes:
        full: the full model.
        specialist: as it came back from disk.
        taught: as it was before it was quantized.
        context: tokens of a passage; a quarter is the prompt, three eighths are the answer.
        seed: of the passages that are looked at.
    """

    full: Talker
    specialist: Talker
    taught: Talker
    context: int
    seed: int = 0

    def run(
        self,
        capability: str,
        prove: Sequence[Document],
        beside: Sequence[str | Path],
        progress: Callable[[str], object] = lambda words: None,
    ) -> Shown:
        """Compare them.

        Args:
            capability: its name.
            prove: text of it.
            beside: files of other texts.
            progress: called with a few words before every text.

        Raises:
            InputError: a text without passages of this size.
        """
        own = self._needs(prove, _PROVEN)
        ours = compared(capability, self.full, self.specialist, own)
        before = compared("before quantization", self.full, self.taught, own)
        forgotten = []
        for name, path in ((Path(path).stem, path) for path in beside):
            progress(f"looking what it has forgotten of {name}")
            needs = self._needs(data.read([path]), _BESIDE)
            forgotten.append(compared(name, self.full, self.specialist, needs))
        return Shown(ours, before, tuple(forgotten))

    def _needs(self, documents: Sequence[Document], count: int) -> list[Need]:
        prompt, answer = self.context // 4, 3 * self.context // 8
        return needs_of(self.full.tokenizer, documents, prompt, answer, count, self.seed)
