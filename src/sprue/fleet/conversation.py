"""A conversation stays with its model, and moves only upward."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from sprue.errors import InputError
from sprue.fleet.fleet import FULL


@dataclass
class Conversations:
    """Which model has which conversation; any thread may ask.

    What was forgotten, by its age or for others, begins anew.

    Attributes:
        limit: of conversations that are remembered; those used last are.
        seconds: without use after which one is forgotten.
        clock: seconds that never run backward.
    """

    limit: int = 10_000
    seconds: float = 3600.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        if self.limit < 1 or not self.seconds > 0:
            raise InputError(
                "expected at least one conversation to remember, for more than 0 seconds, got "
                f"{self.limit} and {self.seconds}"
            )
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[str, float]] = OrderedDict()  # longest unused first

    def model(self, conversation: str, proposed: str) -> str:
        """The model that answers next.

        A new conversation gets the one proposed. A known one stays with its model as long as that
        one is proposed; whatever else is, it goes to FULL for good. Another specialist would have
        to answer in a conversation of which it has read nothing, and FULL is above both.

        Args:
            conversation: its name; "" is none, and gets the one proposed.
            proposed: a specialist's name, or FULL.
        """
        if not conversation:
            return proposed
        with self._lock:
            now = self._forget()
            has = self._known[conversation][0] if conversation in self._known else proposed
            return self._keep(conversation, proposed if has == proposed else FULL, now)

    def escalated(self, conversation: str) -> None:
        """FULL had to help, and has it from now on, whether it was known or not."""
        if conversation:
            with self._lock:
                self._keep(conversation, FULL, self._forget())

    def __len__(self) -> int:
        """How many are remembered."""
        with self._lock:
            self._forget()
            return len(self._known)

    def _forget(self) -> float:
        """Those that were not used for too long; returns the time."""
        now = self.clock()
        while self._known and now - next(iter(self._known.values()))[1] >= self.seconds:
            self._known.popitem(last=False)
        return now

    def _keep(self, conversation: str, model: str, now: float) -> str:
        self._known[conversation] = model, now
        self._known.move_to_end(conversation)
        if len(self._known) > self.limit:
            self._known.popitem(last=False)
        return model
