"""Words with tags: F1 over entities, as CoNLL-2003 and seqeval count them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.errors import InputError

_IGNORED = -100
_BEGINS = ("B", "S", "U")


@dataclass(frozen=True)
class TagF1:
    """F1 over entities where the names of tags say B- and I-, else over tags other than O.

    Where no names are known, the first tag is taken for O; where no name is O, all tags count.

    Attributes:
        classes: names of the tags, in the order of the outputs; None where they are not known.
        name: of the metric.
    """

    classes: tuple[str, ...] | None
    name: str = "F1"
    mean: bool = False

    def read(self, outputs: NDArray[Any], truth: Any) -> NDArray[np.int64]:
        """[examples, 3]: found, given, true; logits [examples, tokens, tags]."""
        return np.array(
            [self._counts(o.argmax(-1), t) for o, t in zip(outputs, truth, strict=True)]
        )

    def _counts(self, given: NDArray[Any], true: Sequence[int]) -> tuple[int, int, int]:
        gold = np.asarray(true)
        if len(gold) > len(given):
            raise InputError(f"{len(gold)} tags for the {len(given)} tokens that the network reads")
        scored = gold != _IGNORED
        a, b = (set(self._parts(x[scored].tolist())) for x in (given, gold))
        return len(a & b), len(a), len(b)

    def _parts(self, tags: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        if self.classes is None or not any(c.startswith(("B-", "I-")) for c in self.classes):
            outside = self._outside()
            return ((i, tag) for i, tag in enumerate(tags) if tag != outside)
        return entities([self.classes[tag] for tag in tags])

    def _outside(self) -> int:
        if self.classes is None:
            return 0
        return self.classes.index("O") if "O" in self.classes else -1

    def value(self, got: NDArray[np.int64], chosen: NDArray[np.int64]) -> float:
        """Over the chosen ones; 0 where nothing is true and nothing given."""
        found, given, true = got[chosen].sum(0)
        return float(2 * found / max(given + true, 1))

    def count(self, got: NDArray[np.int64]) -> int:
        """Of examples."""
        return len(got)


def entities(names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """(kind, first, last) of each run of tags: B- begins one, and so does I- of another kind."""
    kind, first = "", 0
    for i, name in enumerate([*names, "O"]):
        prefix, _, own = name.partition("-")
        goes_on = bool(kind) and prefix in ("I", "E", "L", "M") and own == kind
        if not goes_on:
            if kind:
                yield kind, first, i - 1
            kind, first = (own, i) if prefix != "O" and own else ("", i)
        if kind and prefix in ("E", "L", "S", "U"):
            yield kind, first, i
            kind = ""
