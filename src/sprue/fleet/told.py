"""How much of something is done, told in words as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Share:
    """Adds up shares of a piece of work, and says how long the rest will take.

    Attributes:
        progress: called with the words.
        words: what is being done.
        done: share so far.
        begin: of the work, by the monotonic clock.
    """

    progress: Callable[[str], object]
    words: str
    done: float = 0.0
    begin: float = field(default_factory=time.monotonic)

    def __call__(self, share: float) -> None:
        """So much more is done."""
        self.done += share
        self.progress(f"{self.words}, {100 * self.done:.0f}% done{self._left()}")

    def _left(self) -> str:
        """Time left, once it can be told."""
        if not 0 < self.done < 1:
            return ""
        seconds = (time.monotonic() - self.begin) * (1 - self.done) / self.done
        return f", {seconds / 60:.0f} min left" if seconds >= 90 else f", {seconds:.0f} s left"
